"""A loaded language model that can take one steered step for a batch of rows."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saif.core.steering import Steering, add_where, span_mask
from saif.errors import InputError, ModelError, SteeringError
from saif.runtime.blocks import decoder_blocks
from saif.runtime.hooks import Edit, edit_outputs, read_outputs

Message = Mapping[str, str]
"""{"role": "user" | "assistant" | "system", "content": text}"""


@dataclass(frozen=True, slots=True)
class RowStart:
    """One row as it enters the batch.

    token_ids: everything the model has to read so far. prompt_length: how many of them are the
    prompt; fewer than all when a reply is resumed without a cache.
    """

    token_ids: Sequence[int]
    steering: Steering | None = None
    prompt_length: int | None = None


@dataclass(slots=True)
class _Row:
    token_ids: list[int]
    prompt_length: int
    steering: Steering | None


@dataclass(slots=True)
class Batch:
    """Rows that decode together: their tokens so far and the KV cache behind them.

    Left-padded, so that every row's newest token is in the last column.
    """

    rows: list[_Row]
    cache: Any
    attention_mask: Tensor = field(repr=False)


@dataclass(frozen=True, slots=True)
class StepResult:
    """logits (batch, vocab) float32 for the next token; steered[row] = positions that were
    really changed in this step, measured, per steered layer (all layers agree or it raises)."""

    logits: Tensor
    steered: tuple[int, ...]


class SteerableModel:
    """A causal language model, its tokenizer and its decoder blocks.

    Between calls the model is always the plain model, whatever happened: hooks, lock and
    inference mode open and close inside one forward pass.
    """

    def __init__(self, model_id: str, model: Any, tokenizer: Any) -> None:
        self.model_id = model_id
        self.tokenizer = tokenizer
        self._model = model.eval()
        self.blocks = decoder_blocks(model)
        self._lock = threading.Lock()
        config = model.config.get_text_config()
        self.n_layers = len(self.blocks)
        self.d_model: int = config.hidden_size
        self.context_length: int = getattr(config, "max_position_embeddings", 0) or 1 << 30
        self.control_ids = frozenset(tokenizer.all_special_ids)
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = ends if isinstance(ends, Sequence) else [ends]
        self.end_ids = frozenset(e for e in [*ends, tokenizer.eos_token_id] if e is not None)
        self._pad_id = tokenizer.pad_token_id or tokenizer.eos_token_id or 0
        self.fingerprint = _fingerprint(model)

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return self._model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.dtype

    # Text and tokens

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat up to and including the assistant header.

        Control tokens inside a message stay text: nobody can forge a turn by typing `<|im_end|>`.
        """
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{self.model_id} has no chat template.",
                hint="Choose an instruction-tuned model.",
            )
        encoded = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=True,
            sanitize_control_tokens=True,
        )
        return list(encoded["input_ids"])

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, with no template and no special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    # Steered decoding

    def start(self, starts: Sequence[RowStart]) -> tuple[Batch, StepResult]:
        """Read every row's tokens and give the logits for the token after them."""
        if not starts or any(not start.token_ids for start in starts):
            raise InputError("There is nothing to read: a prompt is empty.")
        rows = [
            _Row(
                list(start.token_ids),
                len(start.token_ids) if start.prompt_length is None else start.prompt_length,
                start.steering,
            )
            for start in starts
        ]
        for row in rows:
            self._check(row.steering)
        input_ids, attention_mask = self._left_pad([row.token_ids for row in rows])
        batch = Batch(rows, self._new_cache(), attention_mask)
        return batch, self._step(batch, input_ids)

    def advance(self, batch: Batch, token_ids: Sequence[int]) -> StepResult:
        """Append one token to every row and give the logits for the one after it."""
        for row, token in zip(batch.rows, token_ids, strict=True):
            row.token_ids.append(token)
        ones = batch.attention_mask.new_ones(len(batch.rows), 1)
        batch.attention_mask = torch.cat([batch.attention_mask, ones], dim=1)
        return self._step(batch, torch.tensor([[token] for token in token_ids], device=self.device))

    def keep(self, batch: Batch, rows: Sequence[int]) -> None:
        """Drop every row but these, so that finished rows cost nothing more."""
        if len(rows) == len(batch.rows):
            return
        index = torch.tensor(list(rows), device=self.device)
        batch.rows = [batch.rows[row] for row in rows]
        batch.cache.batch_select_indices(index)
        batch.attention_mask = batch.attention_mask[index]

    def _step(self, batch: Batch, input_ids: Tensor) -> StepResult:
        masks = _steer_masks(batch.rows, input_ids.shape[1], self.control_ids)
        counts: dict[int, Tensor] = {}
        edits = self._edits(batch.rows, masks, counts)
        out = self._forward(input_ids, batch.attention_mask, batch.cache, edits, {})
        steered = self._verify(batch.rows, masks, counts)
        return StepResult(out.logits[:, -1].float(), steered)

    def _edits(
        self, rows: Sequence[_Row], masks: Tensor, counts: dict[int, Tensor]
    ) -> dict[int, Edit]:
        """One edit per steered layer; each notes in `counts` what it really changed."""
        layers = {layer for row in rows if row.steering for layer in row.steering.directions}

        def edit_for(layer: int) -> Edit:
            here = [
                row.steering.directions.get(layer) if row.steering is not None else None
                for row in rows
            ]
            zero = torch.zeros(self.d_model)
            directions = torch.stack([zero if d is None else d for d in here])
            mask = masks & torch.tensor([d is not None for d in here])[:, None]

            def edit(resid: Tensor) -> Tensor:
                edited = add_where(resid, directions, mask)
                counts[layer] = (edited != resid).any(dim=-1).sum(dim=1)
                return edited

            return edit

        # A step with nothing to push (a prompt chunk outside the span) needs no hook at all.
        return {layer: edit_for(layer) for layer in sorted(layers)} if bool(masks.any()) else {}

    def _verify(
        self, rows: Sequence[_Row], masks: Tensor, counts: Mapping[int, Tensor]
    ) -> tuple[int, ...]:
        """The measured number of steered positions per row, which must be what the span says."""
        steered = []
        for index, row in enumerate(rows):
            layers = row.steering.directions if row.steering is not None else {}
            wanted = int(masks[index].sum()) if layers else 0
            for layer in layers:
                found = int(counts[layer][index]) if layer in counts else 0
                if found != wanted:
                    raise SteeringError(
                        f"Steering at layer {layer} changed {found} positions instead of {wanted}.",
                        hint="This reply was not steered as asked, so it was stopped.",
                    )
            steered.append(wanted)
        return tuple(steered)

    def _check(self, steering: Steering | None) -> None:
        for layer, direction in (steering.directions if steering else {}).items():
            if not 0 <= layer < self.n_layers or direction.shape != (self.d_model,):
                raise SteeringError(
                    f"A direction of width {direction.shape[0]} at layer {layer} doesn't fit "
                    f"{self.model_id} ({self.n_layers} layers, width {self.d_model}).",
                    hint="The preset was made for another model.",
                )

    # Reading

    def residuals(
        self, sequences: Sequence[Sequence[int]], layers: Sequence[int], *, skip: int = 0
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Residual streams after `layers`, and which positions are real.

        Returns {layer: (batch, pos, d_model)} and a mask (batch, pos). `skip` leading tokens,
        which all sequences must share (a system prompt, say), are run once for the whole batch
        and left out of the result.
        """
        prefix = list(sequences[0][:skip])
        if any(list(s[:skip]) != prefix or len(s) <= skip for s in sequences):
            raise InputError(f"The sequences don't share their first {skip} tokens.")
        cache = self._new_cache()
        input_ids, mask = self._left_pad([s[skip:] for s in sequences])
        attention_mask = mask
        if prefix:
            ids, ones = self._left_pad([prefix])
            self._forward(ids, ones, cache, {}, {})
            cache.batch_repeat_interleave(len(sequences))
            attention_mask = torch.cat([ones.expand(len(sequences), -1), mask], dim=1)
        found: dict[int, Tensor] = {}
        readers = {layer: _keep_in(found, layer) for layer in layers}
        self._forward(input_ids, attention_mask, cache, {}, readers)
        return found, mask.bool()

    @torch.inference_mode()
    def log_probabilities(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Tensor]:
        """log p of every continuation token given all before it, for (prompt, continuation)
        rows, under the plain model. Natural logarithm."""
        full = [[*prompt, *continuation] for prompt, continuation in rows]
        input_ids, mask = self._left_pad(full)
        keep = max(len(continuation) for _, continuation in rows) + 1
        logits = self._forward(input_ids, mask, None, {}, {}, logits_to_keep=keep).logits
        result = []
        for index, (_, continuation) in enumerate(rows):
            n = len(continuation)
            targets = torch.tensor(list(continuation), device=logits.device)
            scores = logits[index, -n - 1 : -1].float().log_softmax(dim=-1)
            result.append(scores.gather(1, targets[:, None])[:, 0].cpu())
        return result

    def logit_lens(self, vectors: Tensor, top: int) -> list[list[str]]:
        """The words each residual direction (n, d_model) raises most if it is the last thing
        added: final norm's weights, then the unembedding."""
        head = self._model.get_output_embeddings().weight
        norm = _final_norm_weight(self._model)
        with torch.inference_mode():
            scaled = vectors.to(head) * norm.to(head)
            best = (scaled @ head.T).topk(top, dim=-1).indices
        return [[self.tokenizer.decode([token]) for token in row] for row in best.tolist()]

    # The one forward pass

    @torch.inference_mode()
    def _forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        cache: Any,
        edits: Mapping[int, Edit],
        readers: Mapping[int, Callable[[Tensor], None]],
        *,
        logits_to_keep: int = 1,
    ) -> Any:
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        with (
            self._lock,
            edit_outputs(self.blocks, edits),
            read_outputs(self.blocks, readers),
        ):
            return self._model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=logits_to_keep,
            )

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        # With the config, sliding-window layers get the cache they need.
        return DynamicCache(config=self._model.config)

    def _left_pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width = max(len(sequence) for sequence in sequences)
        ids = torch.full((len(sequences), width), self._pad_id)
        mask = torch.zeros((len(sequences), width), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, width - len(sequence) :] = torch.tensor(list(sequence))
            mask[row, width - len(sequence) :] = 1
        return ids.to(self.device), mask.to(self.device)


def _keep_in(found: dict[int, Tensor], layer: int) -> Callable[[Tensor], None]:
    def keep(resid: Tensor) -> None:
        found[layer] = resid

    return keep


def _steer_masks(rows: Sequence[_Row], width: int, control_ids: frozenset[int]) -> Tensor:
    """(batch, width): which of the newest `width` columns are steered, by absolute position.

    Columns left of a short row's first token are padding and stay False.
    """
    masks = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        if row.steering is None or not row.steering.directions:
            continue
        start = max(0, len(row.token_ids) - width)
        mask = span_mask(row.steering.span, row.token_ids, row.prompt_length, control_ids, start)
        masks[index, width - len(mask) :] = torch.tensor(mask)
    return masks


def _final_norm_weight(model: Any) -> Tensor:
    """The weights of the norm between the last block and the unembedding."""
    inner = model.base_model
    for name in ("norm", "ln_f", "final_layer_norm", "final_layernorm"):
        norm = getattr(inner, name, None)
        if norm is None:
            continue
        # Gemma stores its norm weights minus one.
        offset = 1.0 if "Gemma" in type(norm).__name__ else 0.0
        return norm.weight.float() + offset
    raise ModelError(f"The final norm of {type(model).__name__} was not found.")


def _fingerprint(model: Any) -> str:
    """A hash of the model that survives quantization but not finetuning.

    Taken over the one-dimensional parameters (norms and biases), rounded to bfloat16: every
    quantizer leaves them alone, every finetuning moves them.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1 and parameter.device.type != "meta":
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(
                parameter.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()
            )
    return digest.hexdigest()[:16]
