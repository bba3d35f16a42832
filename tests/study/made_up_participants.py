"""A store of a small study, and participants who walk through it without a page."""

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from made_up_studies import LIBRARY, study

from saif.study.design.publish import Version, publish
from saif.study.design.study_file import Study
from saif.study.participation.steps import (
    Answer,
    Ballot,
    Saved,
    active_participant,
    add_exchange,
    begin,
    finish,
    respond,
    stop_early,
    vote,
)
from saif.study.participation.votes import Choice
from saif.study.store.database import Connect, connect
from saif.study.store.identities import Person
from saif.study.store.store import Store
from saif.study.store.trials import Trial

KEY = b"a key of at least thirty-two bytes, for tests"
QUESTIONS = [
    {"kind": "likert", "id": "fluent", "when": "trial", "points": 5, "low": "not", "high": "very",
     "text": "How fluent?", "required": False},
    {"kind": "text", "id": "remarks", "when": "end", "required": True, "text": "Anything else?"},
]  # fmt: skip


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def pass_by(self, **units: float) -> None:
        self.time += timedelta(**units)


def small_study(**changes: Any) -> Study:
    """One practice trial, two main ones, a check and a retest."""
    made: dict[str, Any] = {
        "trials__main": 2,
        "attention": [{"id": "look", "after": 1, "answer": "L", "text": "Choose left."}],
        "questions": QUESTIONS,
        "failed_checks": 0,
        "quota__complete": 1000,
    }
    return study(**{**made, **changes})


def published(**changes: Any) -> Version:
    """Publishing reads the presets, so each study is published only once."""
    return _published(json.dumps(changes, sort_keys=True))


@cache
def _published(changes: str) -> Version:
    with tempfile.TemporaryDirectory() as folder:
        return publish(small_study(**json.loads(changes)), LIBRARY, Path(folder))[0]


def make_store(
    folder: Path,
    clock: Callable[[], datetime] | None = None,
    connect: Connect = connect,
    version: Version | None = None,
    **changes: Any,
) -> Store:
    version = version or published(**changes)
    return Store(folder / "store", version, KEY, clock=clock or Clock(), connect=connect)


def person(number: int | str = 0) -> Person:
    return Person("lab", f"person-{number}")


def answers(trial: Trial, text: str = "An answer of") -> list[Answer]:
    return [
        Answer(
            arm=arm, side=side, text=f"{text} {arm}.", n_tokens=4, stop="eos", details={"layer": 3}
        )
        for side, arm in (("L", trial.left), ("R", trial.right))
    ]


def made_ready(store: Store, token: str) -> Trial:
    """The trial that is due, with both answers."""
    trial = begin(store, token)
    assert trial is not None
    while trial.state == "running":
        trial = add_exchange(store, token, trial.trial_id, answers(trial))
    return trial


def cast(store: Store, token: str, trial: Trial, choice: Choice = "L", **more: Any) -> Saved:
    assert trial.vote_id is not None
    return vote(store, token, Ballot(vote_id=trial.vote_id, choice=choice, **more))


def walk(
    store: Store, token: str, choose: Callable[[Trial], Choice] = lambda trial: "L"
) -> list[Trial]:
    """All trials that are left, voted on."""
    walked = []
    while (trial := begin(store, token)) is not None:
        while trial.state == "running":
            trial = add_exchange(store, token, trial.trial_id, answers(trial))
        cast(store, token, trial, choose(trial))
        walked.append(trial)
    return walked


def complete(
    store: Store, number: int | str = 0, choose: Callable[[Trial], Choice] = lambda trial: "L"
) -> str:
    """A participant from consent to the completion code; their id."""
    entry = store.enrol(person(number), share_text=True)
    walk(store, entry.token, choose)
    respond(store, entry.token, "remarks", f"a remark of {number}")
    finish(store, entry.token)
    return entry.participant_id


def screen_out(store: Store, token: str) -> str:
    """What becomes of somebody whose answer says that they don't fit; the code."""
    with store.database.transaction() as db:
        store.leave(db, active_participant(store, db, token), "screened")
    return stop_early(store, token)


def rows(store: Store, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with store.database.snapshot() as db:
        return [tuple(row) for row in db.execute(sql, values)]
