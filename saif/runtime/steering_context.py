"""Steering a plain transformers model: hooks that stay while a `with` block runs.

saif's own decode loop opens and closes its hooks inside each forward pass; here the loop is
transformers' `generate`, or yours, so the hooks last as long as the block does.
"""

import inspect
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saif.core.steering import Steering
from saif.errors import InputError, SteeringError
from saif.runtime import introspect
from saif.runtime.batch import Row, check_directions, steer_weights, verified
from saif.runtime.hooks import edit_outputs, watch_calls
from saif.runtime.steering_hook import SteeringHook, steering_hooks


class SteeringContext:
    """Context manager that steers every forward call of `model` inside its block.

    The prompt is what the first forward call of a generation runs, so its last token is the last
    prompt token. A call begins a generation unless it goes on with the KV cache of the call
    before, or, without a cache, runs the same prompt with one token more than the call before.
    Every call is verified: SteeringError is raised where a position was not changed as the span
    says, and at the end of the block if nothing was steered in it.
    """

    steered: int
    """How many positions of the residual stream were changed so far, over all rows."""

    def __init__(
        self, model: Any, steering: Steering | None, *, control_ids: Collection[int] = ()
    ) -> None:
        """control_ids: tokens inside a prompt that are left alone. Raises SteeringError if the
        directions don't fit the model."""
        self.steered = 0
        self._model = model
        self._steering = steering if steering and steering.directions else None
        self._control_ids = frozenset(control_ids)
        self._parameters = list(inspect.signature(model.forward).parameters)
        self._hooks: dict[int, SteeringHook] | None = None  # of the call that runs now
        self._rows: list[Row] = []
        self._weights: list[list[float]] = []
        self._columns = torch.empty(0, 0, dtype=torch.long)
        self._prompt_width = 0
        self._has_cache = True
        self._open = ExitStack()
        self._blocks = introspect.decoder_blocks(model)
        width = model.config.get_text_config().hidden_size
        row = Row(token_ids=[], prompt_length=0, steering=self._steering)
        check_directions([row], len(self._blocks), width, type(model).__name__)

    def __enter__(self) -> "SteeringContext":
        if self._steering is not None:
            edits = {layer: partial(self._edit, layer) for layer in self._steering.directions}
            self._open.enter_context(watch_calls(self._model, self._before, self._after))
            self._open.enter_context(edit_outputs(self._blocks, edits))
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._open.close()
        if error is None and self._steering is not None and self.steered == 0:
            raise SteeringError(
                "Nothing was steered: no token that the span covers went through the model.",
                hint="Run the model inside the `with` block, or choose another span.",
            )

    def _before(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        token_ids: Tensor | None = given.get("input_ids")
        if token_ids is None:
            raise SteeringError("Steering needs `input_ids`; the model was called without.")
        token_ids = token_ids.detach().cpu()
        # By what it can do, since versions of transformers call it differently.
        cache = next((each for each in given.values() if hasattr(each, "get_seq_length")), None)
        self._place(token_ids, cache)
        mask = self._mask(given.get("attention_mask"))
        self._rows = [
            Row(
                token_ids=row[real].tolist(),
                prompt_length=int(real[: self._prompt_width].sum()),
                steering=self._steering,
            )
            for row, real in zip(self._columns, mask, strict=True)
        ]
        self._weights = steer_weights(self._rows, token_ids.shape[1], self._control_ids)
        self._hooks = steering_hooks(self._rows, self._weights)

    def _place(self, token_ids: Tensor, cache: Any) -> None:
        """Where this call's tokens (batch, pos) stand in the generation."""
        past = 0 if cache is None else int(cache.get_seq_length())
        if past:
            known = self._columns
            if len(known) != len(token_ids) or known.shape[1] != past or token_ids.shape[1] != 1:
                raise SteeringError(
                    f"{token_ids.shape[1]} tokens came after {past} that lie in a KV cache, so the "
                    "prompt's end is unknown.",
                    hint="Give whole prompts, without a cache of your own, chunked prefill or "
                    "assisted decoding.",
                )
            self._columns = torch.cat([known, token_ids], dim=1)
            return
        if not (cache is None and not self._has_cache and self._is_one_longer(token_ids)):
            self._prompt_width = token_ids.shape[1]
        self._columns = token_ids
        self._has_cache = cache is not None

    def _is_one_longer(self, token_ids: Tensor) -> bool:
        """Whether these are the columns of the call before, and one more."""
        known, width = self._columns, self._prompt_width
        grown = (known.shape[0], known.shape[1] + 1)
        # The prompt is compared, not all of it: a beam search reorders what came after.
        return token_ids.shape == grown and torch.equal(token_ids[:, :width], known[:, :width])

    def _mask(self, given: Any) -> Tensor:
        """(batch, columns): which columns are tokens of their row, not padding on its left."""
        if given is None:
            return torch.ones_like(self._columns, dtype=torch.bool)
        if not isinstance(given, Tensor) or given.shape != self._columns.shape:
            raise SteeringError(
                "Steering needs an attention mask with a column per token.",
                hint="Use generate's own kind of cache, and leave the mask to the tokenizer.",
            )
        mask = given.detach().cpu().bool()
        if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
            raise InputError(
                "The prompts are padded on the right.",
                hint="Set tokenizer.padding_side = 'left'.",
            )
        return mask

    def _edit(self, layer: int, resid: Tensor) -> Tensor:
        if self._hooks is None:
            raise SteeringError(
                "The model's blocks were run, but not by the model that was to be steered.",
                hint="Steer the model whose forward is called; a wrapper's base model, say.",
            )
        return self._hooks[layer](resid) if layer in self._hooks else resid

    def _after(self) -> None:
        hooks, self._hooks = self._hooks or {}, None
        counts = {layer: hook.counts for layer, hook in hooks.items()}
        self.steered += sum(verified(self._rows, self._weights, counts))
