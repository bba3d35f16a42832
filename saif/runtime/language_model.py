"""A loaded language model that can take one steered step for a batch of rows."""

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from ctypes import CDLL
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saif.errors import InputError
from saif.runtime.batch import (
    Batch,
    BatchRow,
    RowStart,
    StepResult,
    check_directions,
    steer_weights,
    unsteered_prefix,
    verified,
)
from saif.runtime.catalog import Quantize
from saif.runtime.cpu.c_step import NativeDecoder, fits
from saif.runtime.cpu.torch_step import LeanDecoder, can_be_lean
from saif.runtime.prefix_cache import NOTHING, KvMemory, Remembered, restore
from saif.runtime.reading import ReadableModel, finished
from saif.runtime.steering_hook import Push, pushes

_Forward = Callable[[Mapping[int, Push]], Tensor]
"""One pass over a batch's newest tokens, with these edits: logits (rows, vocab) for the next."""


class SteerableModel(ReadableModel):
    """A model whose rows can be steered while it decodes.

    turns: what was read in earlier turns, if conversations are kept at all.
    """

    def __init__(
        self, model_id: str, model: Any, tokenizer: Any, *, quantize: Quantize = "none"
    ) -> None:
        super().__init__(model_id, model, tokenizer, quantize=quantize)
        self.lean: LeanDecoder | NativeDecoder | None = None
        self.turns: KvMemory | None = None

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
    def memory(self) -> int:
        """Bytes that the weights take."""
        return super().memory + (self.lean.bytes if self.lean else 0)

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
        edits = pushes(rows, weights)
        logits = forward(edits)
        counts = {layer: push.counts for layer, push in edits.items()}
        return StepResult(logits, verified(rows, weights, counts))

    def _forward_all(self, batch: Batch, input_ids: Tensor, edits: Mapping[int, Push]) -> Tensor:
        out = self._forward(input_ids, batch.attention_mask, batch.cache, edits, {})
        return out.logits[:, -1].float()

    @torch.inference_mode()
    def _forward_lean(self, batch: Batch, edits: Mapping[int, Push]) -> Tensor:
        assert self.lean is not None
        with self._lock:
            return self.lean.step(batch, edits)
