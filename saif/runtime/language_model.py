"""A loaded causal language model: its tokens, its forward passes plain and steered, its scores."""

import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from ctypes import CDLL
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from saif.errors import InputError
from saif.runtime import introspect, likelihood
from saif.runtime.batch import (
    Batch,
    BatchRow,
    RowStart,
    StepResult,
    check_directions,
    left_pad,
    shared_prefix,
    steer_weights,
    unsteered_prefix,
    verified,
)
from saif.runtime.catalog import Quantize
from saif.runtime.chat_template import Message, is_chat, render, turn_end
from saif.runtime.cpu.c_step import NativeDecoder, fits
from saif.runtime.cpu.torch_step import LeanDecoder, can_be_lean
from saif.runtime.hooks import Edit, edit_outputs, read_outputs
from saif.runtime.prefix_cache import NOTHING, PrefixCache, Remembered, restore
from saif.runtime.steering_hook import SteeringHook, steering_hooks

_T = TypeVar("_T")


def finished(steps: Generator[None, None, _T]) -> _T:
    """What a generator returns, without the pauses it makes."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            found: _T = done.value
            return found


_Forward = Callable[[Mapping[int, SteeringHook]], Tensor]
"""One pass over a batch's newest tokens, with these edits: logits (rows, vocab) for the next."""


class LanguageModel:
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
        self.lean: LeanDecoder | NativeDecoder | None = None
        self.turns: PrefixCache | None = None

    @property
    def hf_model(self) -> Any:
        """The transformers model underneath, for what only transformers does."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return introspect.where_it_runs(self._model.get_input_embeddings())

    @property
    def memory(self) -> int:
        """Bytes that the weights take."""
        return int(self._model.get_memory_footprint()) + (self.lean.bytes if self.lean else 0)

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

    # Decoding

    def make_lean(self, *, packed: bool, library: CDLL | None = None) -> None:
        """Decode without the class's overhead, and with weights in 4 or 8 bits if `packed`, where
        the model is of a shape for it; in compiled code if there is a library for that. Prompts
        are read by the model itself as ever, and so is everything under "Reading"."""
        if not can_be_lean(self._model, self.blocks):
            return
        threads = torch.get_num_threads()
        # Packing is thousands of short calls, and each waits for the slowest thread: on a machine
        # that is busy with something else, two threads took eight times as long as one.
        torch.set_num_threads(1)
        try:
            if packed and library is not None and fits(self._model, self.blocks):
                self.lean = NativeDecoder(library, self._model, self.blocks)
            else:
                self.lean = LeanDecoder(self._model, self.blocks, packed=packed)
        finally:
            torch.set_num_threads(threads)

    @property
    def rows_can_join(self) -> bool:
        """Whether rows may join a running batch, and part of a row may be read apart: in models
        where every position sees all before it, however much padding stands between."""
        return self._window >= self.context_length

    def start(self, starts: Sequence[RowStart]) -> tuple[Batch, StepResult]:
        """Read every row's tokens and give the logits for the token after them."""
        return finished(self.start_in_parts(starts, sys.maxsize))

    def start_in_parts(
        self, starts: Sequence[RowStart], most: int
    ) -> Generator[None, None, tuple[Batch, StepResult]]:
        """As `start`, with a pause whenever `most` tokens of all rows together have been read.
        What is steered in a part is verified with it."""
        if not starts or any(not start.token_ids for start in starts):
            raise InputError("There is nothing to read: a prompt is empty.")
        rows = [
            BatchRow(
                list(start.token_ids),
                len(start.token_ids) if start.prompt_length is None else start.prompt_length,
                start.steering,
                start.conversation,
            )
            for start in starts
        ]
        check_directions(rows, self.n_layers, self.d_model, self.model_id)
        found = [self._recall(row) for row in rows]
        batch, input_ids = yield from self._begun(rows, found, most)
        # What was steered when it was read in an earlier turn counts as ever.
        steered = [old.steered for old in found]
        width = input_ids.shape[1]
        weights = steer_weights(rows, width, self.control_ids)
        # A row that has less to read than the others begins with padding.
        own = batch.attention_mask[:, -width:].tolist()
        weights = [
            [w * n for w, n in zip(*pair, strict=True)] for pair in zip(weights, own, strict=True)
        ]
        for part in self._parts(width, len(rows), most):
            if part.start:
                yield
            read = batch.attention_mask[:, : batch.width - width + part.stop]
            so_far = Batch(rows, batch.cache, read)
            forward = partial(self._forward_all, so_far, input_ids[:, part])
            result = self._step(rows, [row[part] for row in weights], forward)
            steered = [n + before for n, before in zip(result.steered, steered, strict=True)]
        return batch, StepResult(result.logits, tuple(steered))

    def _parts(self, width: int, n_rows: int, most: int) -> list[slice]:
        """Columns to read at once. A sliding window wants all of them together."""
        step = max(1, most // n_rows if self.rows_can_join else width)
        return [slice(first, min(first + step, width)) for first in range(0, width, step)]

    def _begun(
        self, rows: list[BatchRow], found: list[Remembered], most: int
    ) -> Generator[None, None, tuple[Batch, Tensor]]:
        """A batch with as much read as can be had cheaply, and the token ids that are left.

        Either what is remembered of each row, or what all rows share and none steers, read once
        as a single row: whichever leaves less to read.
        """
        sequences = [row.token_ids for row in rows]
        # A reply may outgrow a sliding window later: no padding may stand between prefix and rest.
        apart = self.rows_can_join or len(set(map(len, sequences))) == 1
        skip = unsteered_prefix(rows, self.control_ids) if apart and len(rows) > 1 else 0
        left = max(len(row.token_ids) - old.length for row, old in zip(rows, found, strict=True))
        if len(rows) * left < skip + len(rows) * (max(map(len, sequences)) - skip):
            cache = self._new_cache()
            read = restore(cache, found, self.device)
            input_ids, mask = self._left_pad(
                [row[old.length :] for row, old in zip(sequences, found, strict=True)]
            )
            return Batch(rows, cache, torch.cat([read, mask], dim=1)), input_ids
        found[:] = [NOTHING] * len(rows)
        input_ids, _, attention_mask, cache = yield from self._after_prefix_in_parts(
            sequences, skip, self._parts(skip, 1, most)
        )
        return Batch(rows, cache, attention_mask), input_ids

    def _recall(self, row: BatchRow) -> Remembered:
        if self.turns is None or not self.rows_can_join:
            return NOTHING
        return self.turns.recall(row, self.control_ids, len(row.token_ids) - 1)

    def remember(self, batch: Batch, rows: Sequence[int]) -> None:
        """Keep what these rows have read for the next turn, if turns are kept at all."""
        if self.turns is not None and self.rows_can_join:
            self.turns.remember(batch, rows, self.control_ids)

    def settle(self, reply: RowStart) -> None:
        """Read a finished reply as the next turn will: as part of the prompt, where a `response`
        span steers nothing."""
        batch, _ = self.start([reply])
        self.remember(batch, [0])

    def advance(self, batch: Batch, token_ids: Sequence[int]) -> StepResult:
        """Append one token to every row and give the logits for the one after it."""
        batch.append(token_ids)
        if self.lean:
            forward = partial(self._forward_lean, batch)
        else:
            input_ids = torch.tensor([[token] for token in token_ids], device=self.device)
            forward = partial(self._forward_all, batch, input_ids)
        return self._step(batch.rows, steer_weights(batch.rows, 1, self.control_ids), forward)

    def keep(self, batch: Batch, rows: Sequence[int]) -> None:
        """Drop every row but these, so that finished rows cost nothing more."""
        if list(rows) != list(range(len(batch.rows))):
            batch.keep(rows)

    def _step(
        self, rows: Sequence[BatchRow], weights: Sequence[Sequence[float]], forward: _Forward
    ) -> StepResult:
        edits = steering_hooks(rows, weights)
        logits = forward(edits)
        counts = {layer: push.counts for layer, push in edits.items()}
        return StepResult(logits, verified(rows, weights, counts))

    def _forward_all(
        self, batch: Batch, input_ids: Tensor, edits: Mapping[int, SteeringHook]
    ) -> Tensor:
        out = self._forward(input_ids, batch.attention_mask, batch.cache, edits, {})
        return out.logits[:, -1].float()

    @torch.inference_mode()
    def _forward_lean(self, batch: Batch, edits: Mapping[int, SteeringHook]) -> Tensor:
        assert self.lean is not None
        with self._lock:
            return self.lean.step(batch, edits)
