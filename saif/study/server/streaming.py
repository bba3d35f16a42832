"""Two answers on their way to the page: one line of JSON for each update of both.

Answers are made in threads of their own, so that votes never wait behind them.
"""

import asyncio
import itertools
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from saif.chat import check_message
from saif.errors import InputError, SaifError, StudyError
from saif.study.participation.answers import AnswerGenerator, AnswerPair, Released
from saif.study.participation.events import Canary, note_canary
from saif.study.participation.steps import active_participant, add_exchange, call_off, own_trial
from saif.study.store.store import DisconnectedError, Store
from saif.study.store.trials import Exchange, Trial, exchanges, fixed_message

MAX_STREAMS = 32
"""Comparisons that are made at once; whoever comes then waits for one to end."""

MAX_ATTEMPTS = 12
"""How often a trial is issued before somebody should look at what is wrong."""

UPDATES_PER_SECOND = 8
STEP_SECONDS = 90.0
"""A step that takes longer counts as failed."""

CANARY_EVERY = 25
"""So many messages apart, both answers are made once more, each alone, and must be the same."""

_TOO_LONG = "That is too long, with all that was said before it. Please shorten it."
"""Without a count, as the engine has one: where one arm is told more than the other, it would tell
which."""

_FAILED = "One of the two answers could not be finished, so neither counts."
_logger = logging.getLogger(__name__)

Line = dict[str, object]


@dataclass(frozen=True, slots=True)
class RequestedExchange:
    """A message of a trial whose answers the page asks for."""

    participant: str
    trial: Trial
    history: list[Exchange]
    message: str
    typed: bool = False
    """By the participant, who may type something else."""
    stored: Exchange | None = None
    """Of a retest, whose answers are there already."""


def requested_exchange(
    store: Store, token: str, trial_id: str, k: int, text: str | None
) -> RequestedExchange:
    """Message `k` of a trial, counted from 0. text: what was typed in free chat. Raises StudyError
    where it is not asked, InputError where there is no message."""
    with store.database.snapshot() as db:
        who = active_participant(store, db, token)
        trial = own_trial(db, who, trial_id)
        told = exchanges(db, trial)
    if trial.attempt > MAX_ATTEMPTS:
        raise StudyError(
            "This comparison can't be shown.", hint="Please write to the contact on this page."
        )
    if trial.kind == "retest" and trial.state == "ready" and k < len(told):
        return RequestedExchange(who.id, trial, told[:k], told[k].message, stored=told[k])
    if trial.state != "running" or k != len(told):
        raise StudyError(
            "This comparison has gone on in another tab.", hint="Please reload the page."
        )
    fixed = fixed_message(store.study, trial, k)
    message = check_message(fixed or text or "")
    return RequestedExchange(who.id, trial, told, message, typed=fixed is None)


def next_in(store: Store, trial: Trial, k: int) -> Line:
    """What the page needs once it has shown `k` exchanges: the next message, or a vote id."""
    if k == store.study.trials.turns:
        return {"vote_id": trial.vote_id}
    if trial.kind == "retest":
        with store.database.snapshot() as db:
            return {"message": exchanges(db, trial)[k].message}
    return {"message": fixed_message(store.study, trial, k)}


class Streams:
    """The comparisons that are being made now; each participant has at most one."""

    def __init__(self, store: Store, answers: AnswerGenerator) -> None:
        self._store = store
        self._answers = answers
        self._threads = ThreadPoolExecutor(MAX_STREAMS, "saif-study")
        self._slots = asyncio.Semaphore(MAX_STREAMS)
        self._current: dict[str, threading.Event] = {}
        self._n_messages = itertools.count(1)

    def close(self) -> None:
        """End every comparison that is being made at its next step."""
        for event in list(self._current.values()):
            event.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def stream(self, token: str, asked: RequestedExchange) -> AsyncIterator[bytes]:
        """Lines of JSON: `{"L", "R"}` what both have grown by, `{"waiting"}` while others are
        served, and one last: `{"done"}` with what comes next, `{"refused"}` where the message
        can't be used, or `{"failed"}`, each with a sentence.

        Dropping it ends the computation within two steps.
        """
        gone = threading.Event()
        if earlier := self._current.get(asked.participant):
            earlier.set()
        self._current[asked.participant] = gone
        try:
            while not await self._has_slot():
                yield _line({"waiting": True})
            try:
                known = asked.stored
                made = _replayed(known) if known else self._make(token, asked, gone)
                async for line in made:
                    yield _line(line)
                shown = len(asked.history) + 1
                yield _line({"done": True, **next_in(self._store, asked.trial, shown)})
            except Exception as error:  # noqa: BLE001 - the page must be told, whatever it is
                if asked.typed and isinstance(error, InputError):  # the trial waits for another
                    yield _line({"refused": _TOO_LONG})
                else:
                    yield _line(await self._failed(token, asked, gone, error))
            finally:
                self._slots.release()
        finally:
            gone.set()
            if self._current.get(asked.participant) is gone:
                del self._current[asked.participant]

    async def _has_slot(self) -> bool:
        """Whether one has become free within a second."""
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._slots.acquire(), timeout=1.0)
        return False

    async def _make(
        self, token: str, asked: RequestedExchange, gone: threading.Event
    ) -> AsyncIterator[Line]:
        loop = asyncio.get_running_loop()
        made = self._answers.pair(asked.trial, asked.history, asked.message, cancelled=gone.is_set)
        steps: Iterator[Released] = iter(made)
        left = right = ""
        updated = 0.0
        while True:
            step = loop.run_in_executor(self._threads, next, steps, None)
            released = await asyncio.wait_for(step, timeout=STEP_SECONDS)
            if released is not None:
                left, right = left + released.left, right + released.right
            is_due = released is None or time.monotonic() - updated >= 1 / UPDATES_PER_SECOND
            if (left or right) and is_due:
                yield {"L": left, "R": right}
                left = right = ""
                updated = time.monotonic()
            if released is None:
                break
        row = (token, asked.trial.trial_id, made.answers(), asked.message)
        await asyncio.to_thread(add_exchange, self._store, *row)
        if next(self._n_messages) % CANARY_EVERY == 0:
            self._threads.submit(self._canary, asked, made)

    async def _failed(
        self, token: str, asked: RequestedExchange, gone: threading.Event, error: Exception
    ) -> Line:
        """Call the trial off, so that it is issued again, and say what happened."""
        if gone.is_set() or isinstance(error, DisconnectedError):
            return {"failed": "This comparison has gone on in another tab."}
        reason = error.sentence if isinstance(error, SaifError) else type(error).__name__
        if not isinstance(error, SaifError):
            _logger.error("A study's answer failed", exc_info=error)
        with suppress(StudyError):  # it is void already, or the database is away: issued again then
            trial = asked.trial.trial_id
            await asyncio.to_thread(call_off, self._store, token, trial, "failed", reason)
        return {"failed": _FAILED}

    def _canary(self, asked: RequestedExchange, made: AnswerPair) -> None:
        """Note whether both answers are what they would have been without each other."""
        try:
            found: Canary = "canary_equal" if made.is_row_independent else "canary_differs"
        except SaifError:
            found = "canary_failed"
        note_canary(self._store, asked.participant, asked.trial.trial_id, found)


async def _replayed(told: Exchange) -> AsyncIterator[Line]:
    """A retest's answers at the pace they first had, so that nobody sees that they are known."""
    n_updates = max(1, min(round(told.ms / 1000 * UPDATES_PER_SECOND), 30 * UPDATES_PER_SECOND))
    left_pieces, right_pieces = _cut(told.left, n_updates), _cut(told.right, n_updates)
    for left, right in zip(left_pieces, right_pieces, strict=True):
        await asyncio.sleep(1 / UPDATES_PER_SECOND)
        yield {"L": left, "R": right}


def _cut(text: str, n: int) -> list[str]:
    """The text in `n` pieces of about the same length."""
    ends = [round(len(text) * (i + 1) / n) for i in range(n)]
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _line(found: Line) -> bytes:
    return json.dumps(found).encode() + b"\n"
