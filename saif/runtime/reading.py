"""A loaded language model that can be read: its tokens, its residual streams and its scores."""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from saif.errors import InputError
from saif.runtime import introspect, likelihood
from saif.runtime.batch import left_pad, shared_prefix
from saif.runtime.catalog import Quantize
from saif.runtime.chat_template import Message, is_chat, render, turn_end
from saif.runtime.hooks import Edit, edit_outputs, read_outputs

_T = TypeVar("_T")


def finished(steps: Generator[None, None, _T]) -> _T:
    """What a generator returns, without the pauses it makes."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: _T = done.value
            return found


class ReadableModel:
    """A causal language model, its tokenizer and its decoder blocks.

    Between calls the model is always the plain model, whatever happened: hooks, lock and
    inference mode open and close inside one forward pass.
    """

    def __init__(
        self, model_id: str, model: Any, tokenizer: Any, *, quantize: Quantize = "none"
    ) -> None:
        self.model_id = model_id
        self.quantize = quantize
        self.tokenizer = tokenizer
        self.is_chat, self.turn_end = is_chat(tokenizer), turn_end(tokenizer)
        self._model = model.eval()
        self.bits: int = 8 * model.dtype.itemsize  # of a weight that isn't quantized
        self.blocks = introspect.decoder_blocks(model)
        self._lock = threading.Lock()
        # The tokenizer switches its handling of control tokens to and fro while it encodes.
        self._tokenizing = threading.Lock()
        config = model.config.get_text_config()
        self.n_layers = len(self.blocks)
        self.d_model: int = config.hidden_size
        self.context_length: int = getattr(config, "max_position_embeddings", 0) or 1 << 30
        self._window = introspect.readable_window(config)
        self.control_ids = introspect.control_ids(tokenizer)
        self.end_ids = introspect.end_ids(model, tokenizer)
        self._pad_id = tokenizer.pad_token_id or tokenizer.eos_token_id or 0
        self.fingerprint = introspect.fingerprint(model)
        self.revision = ""  # the commit on the hub that the weights came from, if they did

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return introspect.where_it_runs(self._model.get_input_embeddings())

    @property
    def memory(self) -> int:
        """Bytes that the weights take."""
        return int(self._model.get_memory_footprint())

    # Text and tokens

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat up to and including the assistant header."""
        with self._tokenizing:
            return render(self.tokenizer, messages)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, with no template and no special tokens."""
        options = {"add_special_tokens": False, "split_special_tokens": True}
        with self._tokenizing:
            return list(self.tokenizer.encode(text, **options))

    # Reading

    def residuals(
        self, sequences: Sequence[Sequence[int]], layers: Sequence[int], *, skip: int = 0
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Residual streams after `layers`, and which positions are real.

        Returns {layer: (batch, pos, d_model)} and a mask (batch, pos). `skip` leading tokens,
        which all sequences must share (a system prompt, say), are run once for the whole batch
        and left out of the result.
        """
        if shared_prefix(sequences) < skip or any(len(s) <= skip for s in sequences):
            raise InputError(f"The sequences don't share their first {skip} tokens.")
        apart = self._readable_apart(sequences, skip)
        input_ids, mask, attention_mask, cache = self._after_prefix(sequences, apart)
        found: dict[int, Tensor] = {}
        readers = {layer: partial(found.__setitem__, layer) for layer in layers}
        self._forward(input_ids, attention_mask, cache, {}, readers)
        left = skip - apart
        rest = {layer: resid[:, left:] for layer, resid in found.items()}
        return rest, (mask.cumsum(dim=1) > left)[:, left:]

    @torch.inference_mode()
    def log_probabilities(
        self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]
    ) -> list[Tensor]:
        """log p of every continuation token given all before it, for (prompt, continuation)
        rows, under the plain model. Natural logarithm. A prompt of several rows is read once, and
        what all prompts share once for all of them."""
        full = [[*prompt, *continuation] for prompt, continuation in rows]
        heads = [tuple(prompt[:-1]) for prompt, _ in rows]
        apart = all(heads) and max(map(len, full)) <= self._window
        starts = [len(head) if apart else 0 for head in heads]
        input_ids, mask = self._left_pad(
            [row[start:] for row, start in zip(full, starts, strict=True)]
        )
        cache, read = self._read(heads) if apart else (None, mask[:, :0])
        attention_mask = torch.cat([read, mask], dim=1)
        keep = max(len(continuation) for _, continuation in rows) + 1
        out = self._forward(input_ids, attention_mask, cache, {}, {}, logits_to_keep=keep)
        return likelihood.of_continuations(out.logits, [continuation for _, continuation in rows])

    def next_token_loss(
        self,
        sequences: Sequence[Sequence[int]],
        *,
        skip: int,
        replace: Mapping[int, Edit] | None = None,
    ) -> float:
        """Mean cross-entropy (nats) of each token after the first `skip`, given those before.

        `replace` edits residual streams on the way, to measure what a reconstruction costs.
        """
        input_ids, mask = self._left_pad(sequences)
        every = input_ids.shape[1]
        out = self._forward(input_ids, mask, None, replace or {}, {}, logits_to_keep=every)
        return likelihood.mean_loss(out.logits, input_ids, mask, skip)

    def logit_lens(self, vectors: Tensor, top: int) -> list[list[str]]:
        """The words each residual direction (n, d_model) raises most if it is the last thing
        added: final norm's weights, then the unembedding."""
        best = self.raised_tokens(vectors, top).tolist()
        return [[self.tokenizer.decode([token]) for token in row] for row in best]

    def raised_tokens(self, vectors: Tensor, top: int) -> Tensor:
        """The token ids (n, top) behind `logit_lens`."""
        return introspect.raised_most(self._model, vectors, top)

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

    def _readable_apart(self, sequences: Sequence[Sequence[int]], skip: int) -> int:
        """How much of a shared prefix may be read on its own: all of it, or nothing.

        A sliding window counts columns, and a short row's padding then stands between prefix and
        rest; sequences that outgrow the window have to be read whole.
        """
        return skip if max(len(sequence) for sequence in sequences) <= self._window else 0

    def _after_prefix(
        self, sequences: Sequence[Sequence[int]], skip: int
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """What is left to read once the first `skip` tokens, the same in all, have been read as
        a single row: token ids, their mask, the whole attention mask, and the cache."""
        return finished(self._after_prefix_in_parts(sequences, skip, [slice(0, skip)]))

    def _after_prefix_in_parts(
        self, sequences: Sequence[Sequence[int]], skip: int, parts: Sequence[slice]
    ) -> Generator[None, None, tuple[Tensor, Tensor, Tensor, Any]]:
        """As `_after_prefix`, with a pause after each of these parts of the prefix."""
        cache = self._new_cache()
        input_ids, mask = self._left_pad([sequence[skip:] for sequence in sequences])
        if not skip:
            return input_ids, mask, mask, cache
        prefix, ones = self._left_pad([sequences[0][:skip]])
        for part in parts:
            self._forward(prefix[:, part], ones[:, : part.stop], cache, {}, {})
            yield
        cache.reorder_cache(torch.zeros(len(sequences), dtype=torch.long, device=self.device))
        attention_mask = torch.cat([ones.expand(len(sequences), -1), mask], dim=1)
        return input_ids, mask, attention_mask, cache

    def _read(self, sequences: Sequence[tuple[int, ...]]) -> tuple[Any, Tensor]:
        """The cache of what rows start with, and its attention mask. Equal ones are read once."""
        distinct = list(dict.fromkeys(sequences))
        skip = min(shared_prefix(distinct), min(map(len, distinct)) - 1)
        input_ids, _, mask, cache = self._after_prefix(distinct, skip)
        self._forward(input_ids, mask, cache, {}, {})
        rows = torch.tensor([distinct.index(each) for each in sequences], device=self.device)
        cache.reorder_cache(rows)
        return cache, mask[rows]

    def _new_cache(self) -> Any:
        from saif.runtime.kv_cache import new_cache  # transformers comes with it

        return new_cache(self._model.config)

    def _left_pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = left_pad(sequences, self._pad_id)
        return ids.to(self.device), mask.to(self.device)
