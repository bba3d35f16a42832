"""What a step refuses, and whose rows it leaves as they were."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_participants import (
    Clock,
    answers,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    rows,
    screen_out,
    walk,
)

from saif.errors import StudyError
from saif.study.design.study_file import FixedPrompts
from saif.study.participation.events import note_event
from saif.study.participation.steps import (
    add_exchange,
    begin,
    call_off,
    finish,
    reopen,
    report,
    respond,
    stop_early,
)
from saif.study.server.streaming import requested_exchange
from saif.study.store import trials
from saif.study.store.store import Store
from saif.study.store.trials import Trial, exchanges

FREE = {"prompts": {"kind": "free", "task": "Chat."}, "trials__practice": 0}
STEPS: dict[str, Callable[[Store, str, Trial], object]] = {
    "begin": lambda store, token, trial: begin(store, token),
    "turn": lambda store, token, trial: requested_exchange(store, token, trial.trial_id, 0, None),
    "add": lambda store, token, trial: add_exchange(store, token, trial.trial_id, answers(trial)),
    "call off": lambda store, token, trial: call_off(store, token, trial.trial_id, "failed"),
    "report": lambda store, token, trial: report(store, token, trial.trial_id),
    "reopen": lambda store, token, trial: reopen(store, token, trial.trial_id),
    "respond": lambda store, token, trial: respond(store, token, "remarks", "one"),
    "finish": lambda store, token, trial: finish(store, token),
    "screen out": lambda store, token, trial: screen_out(store, token),
}
OF_A_TRIAL = ("turn", "add", "call off", "report", "reopen")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return make_store(tmp_path, clock, trials__retest=2)


def token_of(store: Store, number: int = 0) -> str:
    return store.enrol(person(number), share_text=True).token


def begun(store: Store, token: str) -> Trial:
    trial = begin(store, token)
    assert trial is not None
    return trial


@pytest.mark.parametrize("step", STEPS)
def test_who_has_left_takes_no_step(store: Store, step: str) -> None:
    token = token_of(store)
    trial = begun(store, token)
    stop_early(store, token)
    with pytest.raises(StudyError, match=r"has ended \(stale\)"):
        STEPS[step](store, token, trial)


def test_nothing_is_noted_of_who_has_left(store: Store) -> None:
    token = token_of(store)
    stop_early(store, token)
    assert not note_event(store, token, "shown")  # their page may still be open
    assert rows(store, "SELECT * FROM event") == []


@pytest.mark.parametrize("step", OF_A_TRIAL)
def test_a_comparison_is_ones_own(store: Store, step: str) -> None:
    token = token_of(store)
    others = begun(store, token_of(store, 1))
    for trial in (others, replace(others, trial_id="nobody-1-1")):
        with pytest.raises(StudyError, match="not one of your comparisons"):
            STEPS[step](store, token, trial)


def test_who_is_complete_stays_so(store: Store) -> None:
    complete(store)
    entry = store.enter(person())
    assert entry is not None
    assert stop_early(store, entry.token) == entry.receipt
    assert rows(store, "SELECT status FROM participant") == [("complete",)]


def test_each_answer_stands_on_its_own_side(store: Store) -> None:
    token = token_of(store)
    trial = begun(store, token)
    left, right = answers(trial)
    for wrong in (
        [right, left],
        [replace(left, arm=right.arm), replace(right, arm=left.arm)],
        [replace(left, side="R"), replace(right, side="L")],
        [left],
    ):
        with pytest.raises(StudyError, match="each on its own side"):
            add_exchange(store, token, trial.trial_id, wrong)


@pytest.mark.parametrize("state", ["planned", "void"])
def test_only_what_has_begun_is_called_off(store: Store, state: str) -> None:
    token = token_of(store)
    trial = begun(store, token)
    call_off(store, token, trial.trial_id, "failed")
    again = trial.trial_id if state == "void" else trial.trial_id[:-1] + "2"
    with pytest.raises(StudyError, match=f"is {state}, so it can't be called off"):
        call_off(store, token, again, "failed")


def test_only_the_last_vote_can_be_changed(store: Store) -> None:
    token = token_of(store)
    first, second = made_ready(store, token), None
    cast(store, token, first)
    void = made_ready(store, token)
    call_off(store, token, void.trial_id, "failed")
    second = made_ready(store, token)
    cast(store, token, second)
    for wrong in (first, void):
        with pytest.raises(StudyError, match="no longer be changed"):
            reopen(store, token, wrong.trial_id)
    reopen(store, token, second.trial_id)
    *_, last = walk(store, token)
    reopen(store, token, last.trial_id)  # also where nothing comes after it


def test_a_vote_that_is_stored_is_acknowledged_to_nobody_else(store: Store) -> None:
    one, other = token_of(store, 1), token_of(store, 2)
    trial = made_ready(store, one)
    cast(store, one, trial)
    with pytest.raises(StudyError, match="not for a comparison of yours"):
        cast(store, other, trial)


def test_the_code_waits_for_what_must_be_answered_on_a_trial(tmp_path: Path) -> None:
    question = {"kind": "text", "id": "why", "when": "trial", "text": "Why?"}
    store = make_store(tmp_path, questions=[question])
    token = token_of(store)
    walked = [trial for trial in walk(store, token) if trial.kind == "main"]
    for trial in walked:
        with pytest.raises(StudyError, match="'why' is still to be answered"):
            finish(store, token)
        respond(store, token, "why", "so", trial_id=trial.trial_id)
    finish(store, token)


def test_every_step_is_a_sign_of_life(store: Store, clock: Clock) -> None:
    token = token_of(store)

    def later() -> None:
        clock.pass_by(minutes=100)  # of 120
        with store.database.transaction() as db:
            store.expire(db)

    later()
    trial = begun(store, token)
    later()
    add_exchange(store, token, trial.trial_id, answers(trial))
    later()
    cast(store, token, made_ready(store, token))
    later()
    respond(store, token, "remarks", "one")
    later()
    trial = begun(store, token)
    later()
    report(store, token, trial.trial_id)
    later()
    begun(store, token)


# Whose rows, and which


def test_what_one_calls_off_or_reports_changes_nothing_of_another(store: Store) -> None:
    one, other = token_of(store, 1), store.enrol(person(2), share_text=True)
    own = "SELECT * FROM trial WHERE participant_id = ? ORDER BY trial_id"
    before = rows(store, own, other.participant_id)
    cast(store, one, made_ready(store, one))
    call_off(store, one, made_ready(store, one).trial_id, "failed")
    report(store, one, made_ready(store, one).trial_id)
    assert rows(store, own, other.participant_id) == before


def test_a_retest_that_is_called_off_keeps_its_seed(store: Store) -> None:
    token = token_of(store)
    while (trial := made_ready(store, token)).kind != "retest":
        cast(store, token, trial)
    call_off(store, token, trial.trial_id, "failed")
    again = made_ready(store, token)
    assert (again.attempt, again.gen_seed) == (2, trial.gen_seed)


def test_who_starts_afresh_changes_nothing_of_what_was(tmp_path: Path) -> None:
    changes = {"resume": {"policy": "restart", "max_age_hours": 24}, "trials__retest": 2}
    store = make_store(tmp_path, **changes)
    token = token_of(store)
    walk(store, token)
    seeds = "SELECT trial_id, gen_seed FROM trial WHERE attempt = 1 ORDER BY trial_id"
    drawn = rows(store, seeds)
    entry = store.enter(person())
    assert entry is not None
    assert rows(store, seeds) == drawn
    with store.database.snapshot() as db:
        own = {trial.position: trial for trial in trials.all_of(db, entry.participant_id)}
    retests = [trial for trial in own.values() if trial.retest_of is not None]
    assert {trial.gen_seed for trial in retests} == {
        own[trial.retest_of or 0].gen_seed for trial in retests
    }
    cast(store, entry.token, made_ready(store, entry.token))
    report(store, entry.token, made_ready(store, entry.token).trial_id)
    reasons = rows(store, "SELECT DISTINCT void_reason FROM trial WHERE attempt = 1")
    assert reasons == [("restarted",)]


def test_a_retest_has_every_turn_of_the_answers_that_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path, **FREE, trials__turns=2, trials__retest=1, attention=[])
    token = token_of(store)
    while (trial := begun(store, token)).kind != "retest":
        for k in range(2):
            told = answers(trial, f"{trial.trial_id} {k}")
            trial = add_exchange(store, token, trial.trial_id, told, f"message {k}")
        if trial.attempt == 1:
            call_off(store, token, trial.trial_id, "failed")
        else:
            cast(store, token, trial)
    with store.database.snapshot() as db:
        first = trials.by_id(db, f"{trial.participant_id}-{trial.retest_of}-2")
        assert first is not None
        shown, counted = exchanges(db, trial), exchanges(db, first)
    assert shown == [replace(one, left=one.right, right=one.left) for one in counted]
    assert [(one.message, one.ms) for one in shown] == [("message 0", 0.0), ("message 1", 0.0)]


def test_each_turn_has_a_prompt_of_its_own(tmp_path: Path) -> None:
    store = make_store(tmp_path, trials__turns=2, trials__practice=0)
    trial = made_ready(store, token_of(store))
    assert isinstance(store.study.prompts, FixedPrompts)
    texts = {prompt.id: prompt.text for prompt in store.study.prompts.items}
    said = [row[0] for row in rows(store, "SELECT user_text FROM turn ORDER BY k")]
    assert said == [texts[prompt] for prompt in trial.prompts]
    assert len(set(said)) == 2
