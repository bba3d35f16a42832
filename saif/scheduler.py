"""The scheduler: continuous batching. Requests join and leave the running batch between two steps.

A step of many rows takes little longer than a step of one, so callers who wait for each other
would wait for nothing. Each request keeps its own steering, sampling and noise, and gets the tokens
that it would have got alone.
"""

import atexit
import contextlib
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from saif.decoding import DecodeBatch, Delivery, RowGroup, Step, never
from saif.runtime.batch import Batch, Row, StepResult
from saif.runtime.language_model import LanguageModel
from saif.runtime.prefix_cache import PrefixCache

CHUNK_TOKENS = 128
"""How much of a long prompt is prefilled between two steps of everybody else: a tenth of a second
or two."""

MAX_ROWS = 64
"""Rows that run at once; requests beyond that are admitted later, first come, first served."""

_LAST_STEP_SECONDS = 5.0

_ALL: "weakref.WeakSet[Scheduler]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread that is in the middle of a step when Python ends takes the process down with it."""
    for scheduler in list(_ALL):
        scheduler.close()


_Prefill = tuple[RowGroup, Generator[None, None, tuple[Batch, StepResult]]]
"""A group whose long prompts are prefilled in chunks, and what is left of that."""


class Scheduler:
    """Decodes for many callers at once. Its thread runs while there is something to do.

    cache: where prefixes are looked up, and what rows hold is kept.
    """

    def __init__(
        self, model: LanguageModel, *, cache: PrefixCache | None = None, max_rows: int = MAX_ROWS
    ) -> None:
        self._model = model
        self._cache = cache
        self._max_rows = max_rows
        self._waiting: deque[RowGroup] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        _ALL.add(self)

    def close(self) -> None:
        """End every row at its next step, and wait for that."""
        self._closing = True
        if (thread := self._thread) is not None:
            thread.join(_LAST_STEP_SECONDS)

    def stream(
        self, rows: Sequence[Row], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        """As `saif.decoding.decode`, beside whoever else is being answered."""
        delivered: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        dropped = threading.Event()

        def ended() -> bool:
            return self._closing or dropped.is_set() or cancelled()

        group = RowGroup(self._model, rows, delivered.put, ended)
        with self._lock:
            self._waiting.append(group)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="saif-decode", daemon=True)
                self._thread.start()
        try:
            while (step := delivered.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            dropped.set()

    def _work(self) -> None:
        running: list[DecodeBatch] = []
        prefills: deque[_Prefill] = deque()
        while True:
            admitted = self._admit(running, prefills)
            if not admitted and not running and not prefills:
                return
            prefills += [
                (each, self._model.prefill_in_chunks(each.rows, CHUNK_TOKENS, cache=self._cache))
                for each in admitted
                if _is_long(each)
            ]
            running += self._prefill_together([group for group in admitted if not _is_long(group)])
            if prefills:
                running += self._prefill_chunk(prefills)
            try:
                running = [left for each in self._merged(running) for left in self._step(each)]
            except Exception as error:  # noqa: BLE001 - nobody may be left waiting
                for group in (group for each in running for group in each.groups):
                    group.fail(error)
                running = []

    def _admit(
        self, running: Sequence[DecodeBatch], prefills: Sequence[_Prefill]
    ) -> list[RowGroup]:
        """Who may begin now. The thread is to end if nobody is left."""
        n_rows = sum(len(group) for each in running for group in each.groups)
        n_rows += sum(len(group) for group, _ in prefills)
        admitted: list[RowGroup] = []
        with self._lock:
            while self._waiting:
                n_rows += len(self._waiting[0])
                if n_rows > self._max_rows and (running or prefills or admitted):
                    break
                admitted.append(self._waiting.popleft())
            if not admitted and not running and not prefills:
                self._thread = None
        return admitted

    def _prefill_chunk(self, prefills: deque[_Prefill]) -> list[DecodeBatch]:
        """Run the next chunk of the first in the queue; its batch, if that was the last."""
        group, chunks = prefills.popleft()
        try:
            if not group.end_if_cancelled():
                next(chunks)
                prefills.append((group, chunks))
        except StopIteration as done:
            return [DecodeBatch([group], *done.value)]
        except Exception as error:  # noqa: BLE001 - raised again where the rows were asked for
            group.fail(error)
        return []

    def _prefill_together(self, groups: Sequence[RowGroup]) -> list[DecodeBatch]:
        """Prefill all as one batch, or each alone if they can't be merged or that fails."""
        if len(groups) > 1 and self._model.rows_can_merge:
            rows = [row for group in groups for row in group.rows]
            with contextlib.suppress(Exception):  # whose fault it is shows when each is alone
                return [DecodeBatch(list(groups), *self._model.prefill(rows, cache=self._cache))]
        return [each for group in groups for each in self._prefill_alone(group, group.rows)]

    def _prefill_alone(
        self, group: RowGroup, rows: Sequence[Row], *, solo: bool = False
    ) -> list[DecodeBatch]:
        """One group's rows, as far as they are; nothing if that fails."""
        try:
            batch, result = self._model.prefill(rows, cache=self._cache)
        except Exception as error:  # noqa: BLE001 - raised again where the rows were asked for
            group.fail(error)
            return []
        # What was steered and counted before isn't counted again.
        steered = tuple(n - before for n, before in zip(result.steered, group.steered, strict=True))
        result = StepResult(result.logits, steered)
        return [DecodeBatch([group], batch, result, solo=solo)]

    def _merged(self, running: Sequence[DecodeBatch]) -> list[DecodeBatch]:
        """The batches, those that can decode together as one."""
        together: DecodeBatch | None = None
        apart: list[DecodeBatch] = []
        for each in running:
            if each.solo or not self._model.rows_can_merge:
                apart.append(each)
            else:
                together = each if together is None else together.merge(each)
        return apart if together is None else [together, *apart]

    def _step(self, decoding: DecodeBatch) -> list[DecodeBatch]:
        """Deliver a step, and run the next for the rows that go on."""
        decoding.sample(self._cache)
        if not decoding.groups:
            return []
        rows = decoding.batch.rows
        lengths = [len(row.token_ids) for row in rows]
        try:
            decoding.decode(self._model)
        except Exception as error:  # noqa: BLE001 - raised again where the rows were asked for
            if len(decoding.groups) == 1:
                decoding.groups[0].fail(error)
                return []
        else:
            return [decoding]
        # One of them may be to blame, so each goes on by itself from what it has.
        rest = [
            replace(row, token_ids=[*row.token_ids[:length], token])
            for row, length, token in zip(rows, lengths, decoding.tokens, strict=True)
        ]
        solo: list[DecodeBatch] = []
        for group in decoding.groups:
            own, rest = rest[: len(group)], rest[len(group) :]
            solo += self._prefill_alone(group, own, solo=True)
        return solo


def _is_long(group: RowGroup) -> bool:
    """Whether prefilling its prompts at once would hold up everybody else."""
    return any(len(row.token_ids) > CHUNK_TOKENS for row in group.rows)
