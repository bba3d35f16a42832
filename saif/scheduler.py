"""One running batch for everyone: requests join and leave it between two steps.

A step of many rows takes little longer than a step of one, so visitors who wait for each other
would wait for nothing. Each request keeps its own steering, sampling and noise, and gets the tokens
that it would have got alone.
"""

import atexit
import contextlib
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from saif.decoding import Replies, Row, Step, never
from saif.runtime.batch import Batch, RowStart, StepResult
from saif.runtime.joining import joined
from saif.runtime.language_model import LanguageModel

PART_TOKENS = 128
"""What is read of a long prompt between two steps of everybody else: a tenth of a second or two."""

MAX_ROWS = 64
"""Rows that run at once; requests beyond that wait their turn, first come, first served."""


_LAST_STEP_SECONDS = 5.0

_ALL: "weakref.WeakSet[Scheduler]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread that is in the middle of a step when Python ends takes the process down with it."""
    for batch in list(_ALL):
        batch.close()


@dataclass(eq=False)
class _Request:
    """What one caller waits for. steps: what it gets; an exception if it fails, None at its end."""

    rows: Sequence[Row]
    replies: Replies
    cancelled: Callable[[], bool]
    steps: "queue.SimpleQueue[Step | Exception | None]" = field(default_factory=queue.SimpleQueue)
    dropped: bool = False


@dataclass(eq=False)
class _Group:
    """Requests whose rows decode together, in the order of the batch's rows.

    reported: positions steered so far, per row. alone: it failed in company and takes none again.
    """

    requests: list[_Request]
    batch: Batch
    result: StepResult
    reported: list[int]
    alone: bool = False


@dataclass(eq=False)
class _Reading:
    """A request whose long prompts are being read, a part at a time."""

    request: _Request
    parts: Generator[None, None, tuple[Batch, StepResult]]


class Scheduler:
    """Decodes for many callers at once. A thread works while there is something to do."""

    def __init__(self, model: LanguageModel, *, max_rows: int = MAX_ROWS) -> None:
        self._model = model
        self._max_rows = max_rows
        self._waiting: deque[_Request] = deque()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = False
        _ALL.add(self)

    def close(self) -> None:
        """End every reply at its next step, and wait for that."""
        self._closing = True
        if (thread := self._thread) is not None:
            thread.join(_LAST_STEP_SECONDS)

    def stream(
        self, rows: Sequence[Row], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        """As `saif.decoding.decode`, beside whoever else is being answered."""
        request = _Request(rows, Replies(self._model, rows), cancelled)
        with self._guard:
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="saif-decode", daemon=True)
                self._thread.start()
        try:
            while (step := request.steps.get()) is not None:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            request.dropped = True

    def _work(self) -> None:
        groups: list[_Group] = []
        readings: deque[_Reading] = deque()
        while True:
            newcomers = self._newcomers(groups, readings)
            if not newcomers and not groups and not readings:
                return
            readings += [self._reading(each) for each in newcomers if _is_long(each)]
            groups += self._begin_all([each for each in newcomers if not _is_long(each)])
            if readings:
                groups += self._read_on(readings)
            try:
                groups = [left for group in self._merged(groups) for left in self._step(group)]
            except Exception as error:  # noqa: BLE001 - nobody may be left waiting
                for request in (request for group in groups for request in group.requests):
                    request.steps.put(error)
                groups = []

    def _newcomers(
        self, groups: Sequence[_Group], readings: Collection[_Reading]
    ) -> list[_Request]:
        """Who may begin now. The work has ended if nobody is left."""
        n_rows = sum(len(group.batch.rows) for group in groups)
        n_rows += sum(len(reading.request.rows) for reading in readings)
        found: list[_Request] = []
        with self._guard:
            while self._waiting:
                n_rows += len(self._waiting[0].rows)
                if n_rows > self._max_rows and (groups or readings or found):
                    break
                found.append(self._waiting.popleft())
            if not found and not groups and not readings:
                self._thread = None
        return found

    def _reading(self, request: _Request) -> _Reading:
        starts = [row.start for row in request.rows]
        return _Reading(request, self._model.start_in_parts(starts, PART_TOKENS))

    def _read_on(self, readings: deque[_Reading]) -> list[_Group]:
        """Read one part for the one whose turn it is; its group, if that was the last."""
        reading = readings.popleft()
        request = reading.request
        if self._closing or request.dropped or request.cancelled():
            request.steps.put(request.replies.cancel())
            request.steps.put(None)
            return []
        try:
            next(reading.parts)
        except StopIteration as done:
            batch, result = done.value
            return [_Group([request], batch, result, [0] * len(request.rows))]
        except Exception as error:  # noqa: BLE001 - raised again where it was asked for
            request.steps.put(error)
            return []
        readings.append(reading)
        return []

    def _begin_all(self, newcomers: Sequence[_Request]) -> list[_Group]:
        """Read the prompts of all together, or of each alone if they can't be or that fails."""
        prompts = [[row.start for row in request.rows] for request in newcomers]
        if len(newcomers) > 1 and self._model.rows_can_join:
            together = [start for starts in prompts for start in starts]
            with contextlib.suppress(Exception):  # whose fault it is shows when each is alone
                batch, result = self._model.start(together)
                return [_Group(list(newcomers), batch, result, [0] * len(together))]
        return [
            group
            for request, starts in zip(newcomers, prompts, strict=True)
            for group in self._begin(request, starts, [0] * len(starts))
        ]

    def _begin(
        self, request: _Request, starts: Sequence[RowStart], reported: list[int], **group: bool
    ) -> list[_Group]:
        """The request's rows, read so far; none if that fails."""
        try:
            batch, result = self._model.start(starts)
        except Exception as error:  # noqa: BLE001 - raised again where it was asked for
            request.steps.put(error)
            return []
        steered = tuple(n - before for n, before in zip(result.steered, reported, strict=True))
        result = StepResult(result.logits, steered)
        return [_Group([request], batch, result, reported, **group)]

    def _merged(self, groups: Sequence[_Group]) -> list[_Group]:
        """The groups, those that can decode together as one."""
        together: _Group | None = None
        apart: list[_Group] = []
        for group in groups:
            if group.alone or not self._model.rows_can_join:
                apart.append(group)
            elif together is None:
                together = group
            else:
                together = _Group(
                    together.requests + group.requests,
                    joined(together.batch, group.batch),
                    StepResult(
                        torch.cat([together.result.logits, group.result.logits]),
                        together.result.steered + group.result.steered,
                    ),
                    together.reported + group.reported,
                )
        return apart if together is None else [together, *apart]

    def _step(self, group: _Group) -> list[_Group]:
        """Give every request its step, and take the next with those that go on."""
        first, kept, tokens, staying = 0, [], [], []
        for request in group.requests:
            own = range(first, first + len(request.replies))
            first = own.stop
            alive, new = self._hand_out(request, group.result, own)
            if alive:
                staying.append((request, len(alive)))
                kept += alive
                tokens += new
        self._model.remember(group.batch, sorted(set(range(first)) - set(kept)))
        if not staying:
            return []
        reported = [group.reported[row] + group.result.steered[row] for row in kept]
        requests = [request for request, _ in staying]
        self._model.keep(group.batch, kept)
        lengths = [len(row.token_ids) for row in group.batch.rows]
        try:
            result = self._model.advance(group.batch, tokens)
        except Exception as error:  # noqa: BLE001 - raised again where it was asked for
            if len(staying) == 1:
                requests[0].steps.put(error)
                return []
        else:
            return [_Group(requests, group.batch, result, reported, group.alone)]
        # One of them may be to blame, so each goes on by itself from what it has.
        starts = [
            RowStart(
                [*row.token_ids[:length], token],
                row.steering,
                row.prompt_length,
                row.conversation,
            )
            for row, length, token in zip(group.batch.rows, lengths, tokens, strict=True)
        ]
        groups, first = [], 0
        for request, n in staying:
            last = first + n
            groups += self._begin(request, starts[first:last], reported[first:last], alone=True)
            first = last
        return groups

    def _hand_out(
        self, request: _Request, result: StepResult, own: range
    ) -> tuple[list[int], list[int]]:
        """Give a request its step; which of its `own` rows go on, and with which tokens."""
        try:
            if self._closing or request.dropped or request.cancelled():
                request.steps.put(request.replies.cancel())
                request.steps.put(None)
                return [], []
            step, alive, tokens = request.replies.take(
                result.logits[own.start : own.stop], result.steered[own.start : own.stop]
            )
        except Exception as error:  # noqa: BLE001 - raised again where it was asked for
            request.steps.put(error)
            return [], []
        request.steps.put(step)
        if not alive:
            request.steps.put(None)
        return [own[i] for i in alive], tokens


def _is_long(request: _Request) -> bool:
    """Whether reading its prompts at once would hold up everybody else."""
    return any(len(row.prompt_ids) > PART_TOKENS for row in request.rows)
