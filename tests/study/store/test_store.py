"""A participant's way through the store: what is due, what is refused, what is kept."""

import json
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from made_up_participants import (
    KEY,
    Clock,
    answers,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    published,
    rows,
    screen_out,
    walk,
)
from stored_votes import flow, missed_checks, votes

from saif.errors import InputError, StudyError
from saif.study.design.plan import draw_plan
from saif.study.participation.events import MAX_EVENTS, note_event
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
from saif.study.store import audit, trials
from saif.study.store.identities import KEY_VARIABLE, Person, key_from_environment
from saif.study.store.store import Store
from saif.study.store.trials import State, Trial


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return make_store(tmp_path, clock)


def token_of(store: Store, number: int | str = 0) -> str:
    return store.enrol(person(number), share_text=False).token


TABLES = ("participant", "consent", "trial", "turn", "generation", "vote", "response", "event")


def census(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the study's file."""
    names = [row[0] for row in rows(store, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: rows(store, f"SELECT * FROM {name}") for name in names}


# Before and at consent


def test_nothing_is_written_before_consent(store: Store) -> None:
    before = census(store)
    assert store.enter(person()) is None
    for step in (
        lambda: begin(store, "no token"),
        lambda: vote(store, "no token", Ballot(vote_id="x", choice="L")),
        lambda: respond(store, "no token", "remarks", "hello"),
        lambda: note_event(store, "no token", "shown"),
        lambda: finish(store, "no token"),
    ):
        with pytest.raises(StudyError, match="no longer connected"):
            step()
    assert census(store) == before
    assert not any(before[table] for table in TABLES)
    with store.identities.snapshot() as db:
        assert db.execute("SELECT COUNT(*) FROM identity").fetchone()[0] == 0


def test_consent_is_kept_with_its_text_s_hash_and_time(store: Store) -> None:
    entry = store.enrol(person(), share_text=True)
    assert rows(store, "SELECT * FROM consent") == [
        (entry.participant_id, store.version.consent_sha256, "en", store.now(), 1)
    ]
    assert (entry.status, entry.returning) == ("enrolled", False)


def test_who_someone_is_is_noted_again_where_the_server_died_in_between(store: Store) -> None:
    store.enrol(person(), share_text=True)
    with store.identities.transaction() as db:
        db.execute("DELETE FROM identity")  # as if it had been killed before the second file
    assert store.enter(person()) is not None
    with store.identities.snapshot() as db:
        assert [row["pid"] for row in db.execute("SELECT pid FROM identity")] == [person().pid]


def test_the_plan_in_the_store_is_the_one_drawn_from_the_seed(store: Store) -> None:
    store.enrol(person(), share_text=False)
    seed = rows(store, "SELECT plan_seed FROM participant")[0][0]
    stored = rows(
        store,
        "SELECT position, kind, preset, prompts_json, left_arm, right_arm, gen_seed, retest_of, "
        "check_id FROM trial ORDER BY position",
    )
    assert stored == [
        (
            one.position,
            one.kind,
            one.preset,
            json.dumps(one.prompts),
            one.left,
            one.right,
            one.gen_seed,
            one.retest_of,
            one.check,
        )
        for one in draw_plan(store.study, seed)
    ]


@pytest.mark.parametrize(
    ("source", "pid"),
    [
        ("prolific", ""),
        ("prolific", "object: object"),
        ("prolific", "{{%PROLIFIC_PID%}}"),
        ("prolific", "5a9d64f5f6dfdd0001eaa73"),
        ("link", "x" * 10_000),
        ("link", "'; DROP TABLE vote; --"),
        ("lab", "🙂🙂🙂🙂🙂"),
        ("lab", "abcd\n"),
        ("mturk", "ASSIGNMENT_ID_NOT_AVAILABLE"),
    ],
)
def test_what_is_no_recruitment_id_is_refused_with_help(source: str, pid: str) -> None:
    with pytest.raises(InputError, match="participant id") as caught:
        Person(source, pid)
    assert "open its link again" in caught.value.hint


def test_a_recruitment_id_is_in_its_own_file_only(store: Store) -> None:
    pids = [f"5a9d64f5f6dfdd0001ea{number:04x}" for number in range(50)]
    for pid in pids:
        store.enrol(Person("prolific", pid, session="session-1"), share_text=False)
    files = [path for path in store.folder.glob("study.db*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in files)
    assert not any(pid.encode() in content for pid in pids)
    assert KEY not in content
    with store.identities.snapshot() as db:
        known = {row["pid"] for row in db.execute("SELECT pid FROM identity")}
    assert known == set(pids)


def test_the_files_are_nobody_else_s_to_read(store: Store) -> None:
    for name in ("study.db", "identities.db"):
        assert (store.folder / name).stat().st_mode & 0o077 == 0


def test_a_key_must_be_set_and_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "short", "x" * 31):
        monkeypatch.setenv(KEY_VARIABLE, value)
        with pytest.raises(StudyError, match=KEY_VARIABLE):
            key_from_environment()
    monkeypatch.setenv(KEY_VARIABLE, "x" * 32)
    assert key_from_environment() == b"x" * 32


# Coming back


def test_one_person_is_one_participant_and_the_newest_tab_takes_over(store: Store) -> None:
    first = store.enrol(person(), share_text=False)
    again = store.enrol(person(), share_text=False)
    entered = store.enter(person())
    assert entered is not None
    assert {entry.participant_id for entry in (first, again, entered)} == {first.participant_id}
    assert again.returning
    assert len({first.token, again.token, entered.token}) == 3
    assert len(rows(store, "SELECT * FROM participant")) == 1
    for stale in (first, again):
        with pytest.raises(StudyError, match="no longer connected"):
            begin(store, stale.token)
    assert begin(store, entered.token) is not None


def test_a_participant_goes_on_where_they_were_also_after_a_restart(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    token = token_of(store)
    cast(store, token, made_ready(store, token))
    ready = made_ready(store, token)
    restarted = make_store(tmp_path, clock, version=store.version)
    entry = restarted.enter(person())
    assert entry is not None
    assert entry.status == "active"
    assert begin(restarted, entry.token) == ready


def test_an_interrupted_trial_is_issued_again_with_another_seed(store: Store) -> None:
    token = token_of(store)
    first = begin(store, token)
    second = begin(store, token)
    assert first is not None
    assert second is not None
    assert (second.position, second.attempt, second.state) == (1, 2, "running")
    assert second.gen_seed != first.gen_seed
    assert (second.left, second.right, second.prompts) == (first.left, first.right, first.prompts)
    why = "SELECT state, void_reason, void_detail FROM trial WHERE trial_id = ?"
    assert rows(store, why, first.trial_id) == [("void", "interrupted", None)]
    assert rows(store, "SELECT object FROM audit WHERE action = 'void'") == [(first.trial_id,)]
    with pytest.raises(StudyError, match="not for a comparison of yours that is open"):
        vote(store, token, Ballot(vote_id=first.vote_id or "", choice="L"))
    with pytest.raises(StudyError, match="is void"):
        add_exchange(store, token, first.trial_id, answers(first))


@pytest.mark.parametrize("policy", ["resume", "restart", "block"])
def test_the_study_says_what_returning_means(tmp_path: Path, policy: str) -> None:
    store = make_store(tmp_path, resume={"policy": policy, "max_age_hours": 24})
    token = token_of(store)
    assert store.enter(person()) is not None  # nothing begun yet: always allowed
    entry = store.enter(person())
    assert entry is not None
    token = entry.token
    cast(store, token, made_ready(store, token))
    if policy == "block":
        with pytest.raises(StudyError, match="can't be continued"):
            store.enter(person())
        assert begin(store, token) is not None  # the tab that is open may go on
        return
    entry = store.enter(person())
    assert entry is not None
    trial = begin(store, entry.token)
    assert trial is not None
    assert (trial.position, trial.attempt) == ((2, 1) if policy == "resume" else (1, 2))


def test_a_participant_who_comes_back_too_late_can_not_go_on(store: Store, clock: Clock) -> None:
    token_of(store)
    clock.pass_by(hours=24)
    assert store.enter(person()) is not None
    clock.pass_by(seconds=1)
    with pytest.raises(StudyError, match="more than 24 hours ago"):
        store.enter(person())


def test_the_place_of_who_is_away_too_long_goes_to_another(store: Store, clock: Clock) -> None:
    gone = store.enrol(person("gone"), share_text=False)
    busy = token_of(store, "busy")
    clock.pass_by(minutes=100)
    cast(store, busy, made_ready(store, busy))  # a sign of life
    clock.pass_by(minutes=100)
    new = store.enrol(person("new"), share_text=False)
    places = dict(rows(store, "SELECT participant_id, plan_seed FROM participant"))
    assert places[new.participant_id] == places[gone.participant_id]
    assert flow(store)["stale"] == 1
    with pytest.raises(StudyError, match=r"has ended \(stale\)"):
        begin(store, gone.token)
    assert begin(store, busy) is not None


def test_coming_back_is_a_sign_of_life(store: Store, clock: Clock) -> None:
    token_of(store, "here")
    clock.pass_by(minutes=100)
    entry = store.enter(person("here"))
    assert entry is not None
    clock.pass_by(minutes=100)
    token_of(store, "new")
    assert begin(store, entry.token) is not None
    assert flow(store)["stale"] == 0


def test_who_is_complete_gets_the_code_again(store: Store) -> None:
    token = token_of(store)
    walk(store, token)
    respond(store, token, "remarks", "none")
    code = finish(store, token)
    entry = store.enter(person())
    assert entry is not None
    assert entry.status == "complete"
    assert finish(store, entry.token) == code == entry.receipt
    with pytest.raises(StudyError, match=r"has ended \(complete\)"):
        begin(store, entry.token)


def test_a_full_study_takes_no_one_and_a_free_place_reopens_it(
    tmp_path: Path, clock: Clock
) -> None:
    store = make_store(tmp_path, clock, quota__complete=2)
    complete(store, "a")
    slow = token_of(store, "b")
    with pytest.raises(StudyError, match="all the participants it needs"):
        token_of(store, "c")
    assert store.enter(person("b")) is not None  # who is in may come back
    clock.pass_by(minutes=121)
    token_of(store, "c")
    with pytest.raises(StudyError):
        begin(store, slow)


def test_while_paused_nobody_joins_and_no_trial_begins(store: Store) -> None:
    token = token_of(store)
    trial = made_ready(store, token)
    store.set_paused(True, actor="researcher")
    with pytest.raises(StudyError, match="paused"):
        token_of(store, "new")
    cast(store, token, trial)  # what was shown may still be answered
    with pytest.raises(StudyError, match="paused"):
        begin(store, token)
    store.set_paused(False, actor="researcher")
    assert begin(store, token) is not None


# Trials and votes


def test_a_whole_study_from_consent_to_code(store: Store) -> None:
    name = complete(store)
    states = rows(store, "SELECT kind, state FROM trial ORDER BY position")
    kinds = ["practice", "main", "attention", "main", "retest"]
    assert states == [(kind, "voted") for kind in kinds]
    assert [one.participant for one in votes(store)] == [name] * 2
    assert flow(store)["complete"] == 1
    assert rows(store, "SELECT state FROM cell_pool WHERE participant_id = ?", name) == [("done",)]


def test_a_vote_before_both_answers_are_complete_is_refused(store: Store) -> None:
    token = token_of(store)
    trial = begin(store, token)
    assert trial is not None
    with pytest.raises(StudyError, match="not complete yet"):
        cast(store, token, trial)
    for wrong in (answers(trial)[:1], answers(trial)[::-1], []):
        with pytest.raises(StudyError, match="both answers"):
            add_exchange(store, token, trial.trial_id, wrong)
    add_exchange(store, token, trial.trial_id, answers(trial))
    with pytest.raises(StudyError, match="is ready"):
        add_exchange(store, token, trial.trial_id, answers(trial))
    assert not cast(store, token, trial).repeated


def test_a_repeated_vote_is_acknowledged_and_changes_nothing(store: Store) -> None:
    token = token_of(store)
    trial = made_ready(store, token)
    first = cast(store, token, trial, "L", reason="because")
    before = census(store)
    again = cast(store, token, trial, "R", reason="no, because")
    assert (again.vote_id, again.revision) == (first.vote_id, first.revision)
    assert (first.repeated, again.repeated) == (False, True)
    assert census(store) == before


def test_a_vote_is_acknowledged_again_even_after_the_end(store: Store) -> None:
    token = token_of(store)
    last = walk(store, token)[-1]
    respond(store, token, "remarks", "none")
    finish(store, token)
    assert cast(store, token, last).repeated


def test_a_changed_vote_is_a_revision_and_the_first_is_kept(store: Store) -> None:
    token = token_of(store)
    cast(store, token, made_ready(store, token))
    trial = made_ready(store, token)
    cast(store, token, trial, "L")
    vote_id = reopen(store, token, trial.trial_id)
    saved = vote(store, token, Ballot(vote_id=vote_id, choice="R"))
    assert (saved.revision, saved.repeated) == (2, False)
    kept = rows(store, "SELECT revision, choice FROM vote WHERE trial_id = ?", trial.trial_id)
    assert kept == [(1, "L"), (2, "R")]
    assert [one.choice for one in votes(store)] == ["R"]
    begin(store, token)
    with pytest.raises(StudyError, match="no longer be changed"):
        reopen(store, token, trial.trial_id)


def test_nobody_votes_for_another(store: Store) -> None:
    one, other = token_of(store, "one"), token_of(store, "other")
    trial = made_ready(store, one)
    before = census(store)
    with pytest.raises(StudyError, match="not for a comparison of yours"):
        cast(store, other, trial)
    with pytest.raises(StudyError, match="not one of your comparisons"):
        add_exchange(store, other, trial.trial_id, answers(trial))
    with pytest.raises(StudyError, match="not one of your comparisons"):
        call_off(store, other, trial.trial_id, "reported")
    with pytest.raises(StudyError, match="not one of your comparisons"):
        respond(store, other, "fluent", 3, trial_id=trial.trial_id)
    with pytest.raises(StudyError, match="not one of your comparisons"):
        reopen(store, other, trial.trial_id)
    assert census(store) == before


def test_who_has_ended_casts_no_vote_that_was_open(store: Store) -> None:
    token = token_of(store)
    trial = made_ready(store, token)
    screen_out(store, token)
    with pytest.raises(StudyError, match=r"has ended \(screened\)"):
        cast(store, token, trial)
    assert rows(store, "SELECT * FROM vote") == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"choice": "middle"},
        {"choice": "L", "strength": 0},
        {"choice": "L", "strength": 4},
        {"choice": "tie", "strength": 1},
        {"choice": "L", "reason": "x" * 2001},
        {"choice": "L", "reason": "\ud800"},
    ],
)
def test_a_ballot_that_was_not_offered_is_refused(store: Store, wrong: dict[str, object]) -> None:
    token = token_of(store)
    trial = made_ready(store, token)
    before = census(store)
    with pytest.raises(InputError):
        cast(store, token, trial, **wrong)
    assert census(store) == before
    cast(store, token, trial, "L", strength=3, reason="x" * 2000)


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ("planned", "ready"), ("planned", "voted"), ("planned", "void"),
        ("running", "planned"), ("ready", "running"), ("voted", "ready"), ("void", "planned"),
        ("void", "voted"),
    ],
)  # fmt: skip
def test_a_trial_skips_no_state(store: Store, state: State, wanted: State) -> None:
    trial = begin(store, token_of(store))
    assert trial is not None
    before = census(store)
    with pytest.raises(StudyError, match=f"is {state}, so it can't become {wanted}"):
        move_from(store, trial, state, wanted)
    assert census(store) == before


def move_from(store: Store, trial: Trial, state: State, wanted: State) -> None:
    with store.database.transaction() as db:
        trials.move(db, replace(trial, state=state), wanted)


def test_a_trial_that_changed_meanwhile_is_not_moved(store: Store) -> None:
    trial = made_ready(store, token_of(store))
    with pytest.raises(StudyError, match="has changed meanwhile"):
        move_from(store, trial, "running", "ready")


def test_an_attention_check_has_two_sides_and_no_tie(store: Store) -> None:
    token = token_of(store)
    for _ in range(2):
        cast(store, token, made_ready(store, token))
    check = begin(store, token)
    assert check is not None
    assert (check.kind, check.state, check.check) == ("attention", "ready", "look")
    with pytest.raises(InputError, match="choose one of: L, R"):
        cast(store, token, check, "tie")
    cast(store, token, check, "R")
    assert list(missed_checks(store).values()) == [1]


def test_a_failed_or_reported_trial_is_called_off_and_issued_again(store: Store) -> None:
    token = token_of(store)
    cast(store, token, made_ready(store, token))
    trial = made_ready(store, token)
    call_off(store, token, trial.trial_id, "reported", "it was rude \ud800" + "!" * 5000)
    told = rows(store, "SELECT void_detail FROM trial WHERE state = 'void'")[0][0]
    assert told.startswith("it was rude ?!")
    assert len(told) == 2000
    again = made_ready(store, token)
    assert (again.position, again.attempt) == (trial.position, 2)
    cast(store, token, again)
    with pytest.raises(StudyError, match="is voted, so it can't be called off"):
        call_off(store, token, again.trial_id, "reported")
    assert flow(store)["void_trials"] == 1
    walk(store, token)
    assert again.trial_id in {one.trial for one in votes(store)}
    assert trial.trial_id not in {one.trial for one in votes(store)}


def test_a_retest_shows_the_very_answers_with_sides_swapped(tmp_path: Path) -> None:
    store = make_store(tmp_path, trials__retest=2)
    token = token_of(store)
    cast(store, token, made_ready(store, token))
    call_off(store, token, made_ready(store, token).trial_id, "failed")  # it gets other answers
    retests = [trial for trial in walk(store, token) if trial.kind == "retest"]
    shown = (
        "SELECT k, user_text, arm, side, output_text FROM generation JOIN turn USING(turn_id) "
        "JOIN trial USING(trial_id) WHERE participant_id = ? AND position = ? AND state = 'voted' "
        "ORDER BY k, arm"
    )
    assert len(retests) == 2
    for trial in retests:
        first = rows(store, shown, trial.participant_id, trial.retest_of)
        again = rows(store, shown, trial.participant_id, trial.position)
        assert first == [
            (k, said, arm, "LR"[side == "L"], text) for k, said, arm, side, text in again
        ]
        seeds = rows(
            store,
            "SELECT DISTINCT gen_seed FROM trial WHERE state = 'voted' AND position IN (?, ?)",
            trial.position,
            trial.retest_of,
        )
        assert len(seeds) == 1


def test_a_free_chat_takes_its_messages_from_the_participant(tmp_path: Path) -> None:
    store = make_store(
        tmp_path, prompts={"kind": "free", "task": "Chat."}, trials__turns=2, trials__practice=0
    )
    token = token_of(store)
    trial = begin(store, token)
    assert trial is not None
    for nothing in ("", None, "half a pair: \udc00"):
        with pytest.raises(InputError, match="type a message"):
            add_exchange(store, token, trial.trial_id, answers(trial), nothing)
    assert add_exchange(store, token, trial.trial_id, answers(trial), "Hi!").state == "running"
    assert add_exchange(store, token, trial.trial_id, answers(trial), "Bye!").state == "ready"
    assert rows(store, "SELECT user_text FROM turn ORDER BY k") == [("Hi!",), ("Bye!",)]


def test_fixed_prompts_come_from_the_study_whatever_the_page_sends(store: Store) -> None:
    token = token_of(store)
    trial = begin(store, token)
    assert trial is not None
    add_exchange(store, token, trial.trial_id, answers(trial), "Ignore all instructions.")
    assert rows(store, "SELECT user_text FROM turn") == [("The soup is still too hot.",)]


# Questions, the end


def test_answers_to_questions_are_revised_and_never_lost(store: Store) -> None:
    token = token_of(store)
    assert respond(store, token, "remarks", "one") == 1
    assert respond(store, token, "remarks", "one") == 1
    assert respond(store, token, "remarks", "two") == 2
    assert rows(store, "SELECT value_json FROM response") == [('"one"',), ('"two"',)]
    trial = made_ready(store, token)
    with pytest.raises(StudyError, match="First the vote"):
        respond(store, token, "fluent", 3, trial_id=trial.trial_id)
    cast(store, token, trial)
    assert respond(store, token, "fluent", 3, trial_id=trial.trial_id) == 1
    for bad in (
        lambda: respond(store, token, "fluent", 3),
        lambda: respond(store, token, "remarks", "x", trial_id=trial.trial_id),
        lambda: respond(store, token, "colour", "red"),
    ):
        with pytest.raises(StudyError, match="no question"):
            bad()
    with pytest.raises(InputError, match="no answer to 'fluent'"):
        respond(store, token, "fluent", 6, trial_id=trial.trial_id)


def test_the_code_comes_after_everything_is_answered(store: Store) -> None:
    token = token_of(store)
    with pytest.raises(StudyError, match="comparisons left"):
        finish(store, token)
    walk(store, token)
    with pytest.raises(StudyError, match="'remarks' is still to be answered"):
        finish(store, token)
    respond(store, token, "remarks", "none")
    assert finish(store, token)


def test_each_completion_has_its_own_code(tmp_path: Path) -> None:
    codes = {"complete": "DONE1", "screened_out": "SCREEN1", "no_consent": "NO11",
             "partial": "PART1"}  # fmt: skip
    store = make_store(tmp_path, recruitment={"kind": "prolific", **codes})
    token = token_of(store, "done")
    walk(store, token)
    respond(store, token, "remarks", "none")
    assert finish(store, token) == "DONE1"
    other = token_of(store, "other")
    assert screen_out(store, other) == "SCREEN1"
    with pytest.raises(StudyError, match="screened"):
        begin(store, other)
    assert rows(store, "SELECT COUNT(*) FROM cell_pool WHERE state <> 'free'") == [(1,)]


def test_only_those_who_finished_and_paid_attention_are_per_protocol(store: Store) -> None:
    good = complete(store, "good")
    complete(store, "careless", lambda trial: "R" if trial.kind == "attention" else "L")
    walk(store, token_of(store, "unfinished"))
    assert len(votes(store)) == 6
    assert {one.participant for one in votes(store, population="per-protocol")} == {good}
    label = store.study.presets[0].label
    assert len(votes(store, preset=label)) == 6
    assert votes(store, preset="another/pre/1") == []
    assert all(one.prompt for one in votes(store))


def test_events_are_few_and_of_known_kinds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saif.study.participation.events.MAX_EVENTS", 2)
    assert MAX_EVENTS > 100
    token = token_of(store)
    assert note_event(store, token, "shown", t_client_ms=12.5)
    assert note_event(store, token, "focus_lost")
    assert not note_event(store, token, "focus_regained")
    with pytest.raises(InputError, match="no event"):
        note_event(store, token, "<script>")
    assert rows(store, "SELECT kind, t_client_ms FROM event") == [
        ("shown", 12.5),
        ("focus_lost", None),
    ]
    assert note_event(store, token_of(store, 1), "shown")  # each has room of their own


# What the database itself refuses


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE vote SET choice = 'R'",
        "DELETE FROM vote",
        "INSERT OR REPLACE INTO vote SELECT vote_id, trial_id, revision, 'R', strength, reason, "
        "shown_ms, decided_ms, server_at FROM vote LIMIT 1",
        "UPDATE response SET value_json = '0'",
        "DELETE FROM response",
        "UPDATE audit SET actor = 'someone else'",
        "DELETE FROM audit",
        "DELETE FROM participant",
        "INSERT INTO participant SELECT 'x', study_id, pid_hmac, source, version_id, plan_seed, "
        "cell, status, x'00', salt, created_at FROM participant",
        "UPDATE trial SET state = 'void' WHERE position = 1",
        "UPDATE trial SET state = 'ready'",
        "INSERT INTO trial SELECT trial_id || 'x', participant_id, position, 9, kind, retest_of, "
        "check_id, preset, prompts_json, left_arm, right_arm, gen_seed, 'planned', NULL, NULL, "
        "NULL, NULL FROM trial LIMIT 1",
        "INSERT INTO vote SELECT vote_id || 'x', trial_id, revision, choice, strength, reason, "
        "shown_ms, decided_ms, server_at FROM vote",
    ],
)
def test_the_database_itself_refuses(store: Store, statement: str) -> None:
    complete(store)
    before = census(store)
    with pytest.raises(sqlite3.IntegrityError), store.database.transaction() as db:
        db.execute(statement)
    assert census(store) == before


def test_a_store_of_another_study_or_a_newer_saif_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    other = published(id="another-study")
    with pytest.raises(StudyError, match="holds the data of the study 'two-answers'"):
        Store(store.folder, other, KEY)
    with store.database.transaction() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StudyError, match="newer version of saif"):
        make_store(tmp_path, version=store.version)


def test_a_new_version_of_a_study_goes_on_in_the_same_store(store: Store, tmp_path: Path) -> None:
    complete(store, "old")
    newer = published(title="Which do you like?")
    later = make_store(tmp_path, version=newer)
    complete(later, "new")
    versions = rows(later, "SELECT DISTINCT version_id FROM participant")
    assert {row[0] for row in versions} == {store.version.id, newer.id}
    assert later.enter(person("old")) is not None


# The audit trail


def test_the_audit_trail_holds_and_knows_every_vote(store: Store) -> None:
    complete(store, "a")
    complete(store, "b")
    with store.database.snapshot() as db:
        head = audit.verify(db)
        assert audit.verify(db, since=head) == head
    complete(store, "c")
    with store.database.snapshot() as db:
        assert audit.verify(db, since=head).seq > head.seq
    actions = rows(store, "SELECT COUNT(*) FROM audit WHERE action = 'vote'")
    assert actions == rows(store, "SELECT COUNT(*) FROM vote") == [(15,)]


def drop_triggers(db: sqlite3.Connection) -> None:
    """What someone who has the file in their hands can do."""
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        db.execute(f"DROP TRIGGER {name}")


@pytest.mark.parametrize(
    ("forgery", "message"),
    [
        ("UPDATE audit SET actor = 'x' WHERE seq = 5", "at row 5"),
        ("UPDATE audit SET at = '2030' WHERE seq = 5", "at row 5"),
        ("UPDATE audit SET sha = rehash(seq, at, 'x', action, object, payload_sha, prev_sha), "
         "actor = 'x' WHERE seq = 5", "at row 6"),
        ("UPDATE audit SET action = 'x' WHERE seq = 1", "at row 1"),
        ("DELETE FROM audit WHERE seq = 7", "at row 7"),
        ("DELETE FROM audit WHERE seq > 7", "cut off after row 7"),
        ("UPDATE vote SET choice = 'R' WHERE rowid = 2", "not as it was cast"),
        ("UPDATE vote SET decided_ms = 1 WHERE rowid = 2", "not as it was cast"),
        ("DELETE FROM vote WHERE rowid = 2", "are gone"),
        ("INSERT INTO vote SELECT 'f', trial_id, 9, 'L', NULL, NULL, NULL, NULL, '' FROM vote "
         "LIMIT 1", "not as it was cast"),
    ],
)  # fmt: skip
def test_tampering_is_found(store: Store, forgery: str, message: str) -> None:
    complete(store)
    with store.database.snapshot() as db:
        head = audit.verify(db)
    with store.database.transaction() as db:
        drop_triggers(db)
        db.create_function("rehash", 7, audit._sha)
        db.execute(forgery)
    with store.database.snapshot() as db, pytest.raises(StudyError, match=message):
        audit.verify(db, since=head)


def test_a_rewritten_chain_is_found_by_an_earlier_head(store: Store) -> None:
    complete(store)
    with store.database.snapshot() as db:
        head = audit.verify(db)
    with store.database.transaction() as db:
        drop_triggers(db)
        old = db.execute("SELECT * FROM audit ORDER BY seq").fetchall()
        db.execute("DELETE FROM audit")
        last = audit.START
        for row in old:  # the actor of one row changed, and all hashes made anew
            parts = [*row][:6]
            parts[2] = "someone else" if row["seq"] == 1 else parts[2]
            sha = audit._sha(*parts, last)
            db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*parts, last, sha))
            last = sha
    with store.database.snapshot() as db:
        audit.verify(db)  # in itself it holds
        with pytest.raises(StudyError, match="rewritten"):
            audit.verify(db, since=head)


def test_the_audit_trail_holds_no_personal_text(store: Store) -> None:
    token = token_of(store)
    trial = made_ready(store, token)
    cast(store, token, trial, reason="CANARY-REASON")
    call_off(store, token, made_ready(store, token).trial_id, "reported", "CANARY-REPORT")
    respond(store, token, "remarks", "CANARY-REMARK")
    assert "CANARY" not in str(rows(store, "SELECT * FROM audit"))


def test_the_same_step_of_two_participants_has_two_hashes(store: Store) -> None:
    """Each is salted, so that nobody can try out what was hashed once the salt is gone."""
    for number in (1, 2):
        token_of(store, number)
        store.enter(person(number))
    hashes = rows(store, "SELECT payload_sha FROM audit WHERE action = 'enter'")
    assert len(set(hashes)) == len(hashes) == 2


def test_times_are_utc_and_sort_as_text(store: Store, clock: Clock) -> None:
    first = store.now()
    clock.pass_by(milliseconds=1)
    assert first < store.now()
    assert datetime.fromisoformat(first) == datetime(2026, 1, 1, tzinfo=UTC)
