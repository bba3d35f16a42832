"""Calls in any order, legal or not: the illegal ones change nothing, the legal ones are kept."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from made_up_participants import Clock, answers, make_store, person, rows, screen_out

from saif.errors import InputError, StudyError
from saif.study.durability.erasure import withdraw
from saif.study.participation.steps import (
    Ballot,
    add_exchange,
    begin,
    call_off,
    finish,
    reopen,
    respond,
    vote,
)
from saif.study.store import audit
from saif.study.store.trials import Trial

PEOPLE = st.integers(0, 3)
EVERYTHING = (
    "study_version", "setting", "participant", "consent", "trial", "turn", "generation", "vote",
    "response", "event", "withdrawal", "audit", "erasing", "cell_pool",
)  # fmt: skip


class Visits(RuleBasedStateMachine):
    """Four people with up to four open tabs each, who may press anything at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.store = make_store(self.folder, self.clock, trials__practice=0, quota__complete=3)
        self.tokens: list[str] = ["nobody's"]
        self.trials: list[Trial] = []
        self.vote_ids: list[str] = ["nothing's"]
        self.receipts: dict[int, str] = {}
        self.acknowledged: dict[str, str] = {}
        self.voter_of: dict[str, str] = {}
        self.erased: set[str] = set()
        self.codes: set[str] = set()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    def contents(self) -> list[object]:
        return [rows(self.store, f"SELECT * FROM {table}") for table in EVERYTHING]

    def attempt(self, call: Callable[[], object]) -> object:
        """The result, or None after a refusal, which must have changed nothing."""
        before = self.contents()
        try:
            return call()
        except (StudyError, InputError):
            assert self.contents() == before
            return None

    @initialize()
    def open(self) -> None:
        self.enrol(0)

    @rule(number=PEOPLE)
    def enrol(self, number: int) -> None:
        entry = self.attempt(lambda: self.store.enrol(person(number), share_text=True))
        if entry:
            self.tokens.append(entry.token)  # type: ignore[attr-defined]
            self.receipts[number] = entry.receipt  # type: ignore[attr-defined]

    @rule(number=PEOPLE)
    def enter(self, number: int) -> None:
        entry = self.attempt(lambda: self.store.enter(person(number)))
        if entry:
            self.tokens.append(entry.token)  # type: ignore[attr-defined]

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        found = self.attempt(lambda: begin(self.store, self.token(data)))
        if isinstance(found, Trial):
            self.shown(found)

    def shown(self, trial: Trial) -> None:
        assert trial.vote_id is not None
        self.trials.append(trial)
        self.vote_ids.append(trial.vote_id)
        self.voter_of[trial.vote_id] = trial.participant_id

    def token(self, data: st.DataObject) -> str:
        """Mostly a new one: the old ones are refused anyway."""
        newest = self.tokens[-3:]
        return data.draw(st.sampled_from(newest + self.tokens))

    def trial(self, data: st.DataObject) -> Trial | None:
        recent = self.trials[-3:]
        return data.draw(st.sampled_from(recent + self.trials)) if self.trials else None

    @rule(data=st.data(), right=st.booleans())
    def answer(self, data: st.DataObject, right: bool) -> None:
        trial = self.trial(data)
        if trial:
            told = answers(trial) if right else answers(trial)[::-1]
            self.attempt(lambda: add_exchange(self.store, self.token(data), trial.trial_id, told))

    @rule(data=st.data(), choice=st.sampled_from(["L", "R", "tie", "skip", "both"]))
    def vote(self, data: st.DataObject, choice: str) -> None:
        vote_id = data.draw(st.sampled_from(self.vote_ids[-2:] + self.vote_ids))
        ballot = Ballot(vote_id=vote_id, choice=choice)  # type: ignore[arg-type]
        saved = self.attempt(lambda: vote(self.store, self.token(data), ballot))
        if saved:
            assert saved.repeated == (vote_id in self.acknowledged)  # type: ignore[attr-defined]
            self.acknowledged.setdefault(vote_id, choice)

    @rule(data=st.data())
    def answer_and_vote(self, data: st.DataObject) -> None:
        """The way through, so that the far end is reached as well."""
        token = self.tokens[-1]
        for _ in range(data.draw(st.integers(1, 5))):
            trial = self.attempt(lambda: begin(self.store, token))
            if not isinstance(trial, Trial):
                return
            self.shown(trial)
            if trial.state == "running":
                add_exchange(self.store, token, trial.trial_id, answers(trial))
            vote(self.store, token, Ballot(vote_id=trial.vote_id or "", choice="R"))
            self.acknowledged.setdefault(trial.vote_id or "", "R")

    @rule(data=st.data())
    def reopen(self, data: st.DataObject) -> None:
        trial = self.trial(data)
        if trial:
            found = self.attempt(lambda: reopen(self.store, self.token(data), trial.trial_id))
            if found:
                self.vote_ids.append(str(found))
                self.voter_of[str(found)] = trial.participant_id

    @rule(data=st.data())
    def call_off(self, data: st.DataObject) -> None:
        trial = self.trial(data)
        if trial:
            call = lambda: call_off(self.store, self.token(data), trial.trial_id, "reported")  # noqa: E731
            self.attempt(call)

    @rule(data=st.data(), value=st.sampled_from(["one", "two", 3]))
    def respond(self, data: st.DataObject, value: object) -> None:
        self.attempt(lambda: respond(self.store, self.token(data), "remarks", value))

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        code = self.attempt(lambda: finish(self.store, self.token(data)))
        if code:
            self.codes.add(str(code))

    @rule(data=st.data(), really=st.integers(0, 4))
    def screen_out(self, data: st.DataObject, really: int) -> None:
        if not really:
            self.attempt(lambda: screen_out(self.store, self.token(data)))

    @rule(number=PEOPLE, scope=st.sampled_from(["analysis", "erase"]), really=st.integers(0, 3))
    def withdraw(self, number: int, scope: str, really: int) -> None:
        if number not in self.receipts or really:
            return
        name = self.store.of_receipt(self.receipts[number])
        if scope == "erase":
            withdraw(self.store, name, "erase", actor="participant")
            self.erased.add(name)
        else:
            self.attempt(lambda: withdraw(self.store, name, "analysis", actor="participant"))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.store.set_paused(paused and self.clock.time.minute % 3 == 0, actor="researcher")

    @rule(minutes=st.sampled_from([1, 30, 130, 1500]))
    def wait(self, minutes: int) -> None:
        self.clock.pass_by(minutes=minutes)

    @invariant()
    def acknowledged_votes_are_stored_as_they_were_cast(self) -> None:
        stored = dict(rows(self.store, "SELECT vote_id, choice FROM vote"))
        gone = {vote_id for vote_id in self.acknowledged if self.voter_of[vote_id] in self.erased}
        assert stored == {
            vote_id: choice for vote_id, choice in self.acknowledged.items() if vote_id not in gone
        }

    @invariant()
    def everything_fits_together(self) -> None:
        with self.store.database.snapshot() as db:
            audit.verify(db)
        places = rows(self.store, "SELECT state, participant_id FROM cell_pool")
        status = dict(rows(self.store, "SELECT participant_id, status FROM participant"))
        for state, name in places:
            if state == "held":
                assert status[name] in ("enrolled", "active")
            if state == "done":
                assert status[name] == "complete"
        holding = {name for state, name in places if state != "free"}
        going = {n for n, one in status.items() if one in ("enrolled", "active", "complete")}
        assert holding == going
        assert len(going) <= 3
        assert rows(self.store, "SELECT * FROM erasing") == []
        open_trials = rows(
            self.store,
            "SELECT participant_id FROM trial WHERE state IN ('running', 'ready')",
        )
        assert len(open_trials) == len(set(open_trials))
        unvoted = rows(
            self.store,
            "SELECT 1 FROM trial LEFT JOIN vote USING(trial_id) "
            "WHERE state = 'voted' AND vote.vote_id IS NULL",
        )
        assert unvoted == []


def run(examples: int, steps: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Visits,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_order_of_calls_keeps_the_store_consistent() -> None:
    run(examples=8, steps=22)


@pytest.mark.slow
def test_ten_thousand_calls_in_any_order() -> None:
    run(examples=200, steps=50)
