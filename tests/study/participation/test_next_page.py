"""What is due next follows from the store alone; reporting and leaving are steps like any other."""

from pathlib import Path

import pytest
from made_up_participants import cast, made_ready, make_store, person, rows, walk
from stored_votes import votes

from saif.errors import StudyError
from saif.study.participation.next_page import NextPage, next_page
from saif.study.participation.steps import (
    Ballot,
    begin,
    finish,
    reopen,
    report,
    respond,
    stop_early,
    vote,
)
from saif.study.store.audit import verify
from saif.study.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path, trials__retest=2)


def token_of(store: Store, number: int = 0) -> str:
    return store.enrol(person(number), share_text=True).token


def next_of(store: Store, token: str) -> NextPage:
    with store.database.snapshot() as db:
        return next_page(db, store.study, store.participant(db, token))


def test_each_step_leads_to_the_next_page(store: Store) -> None:
    token = token_of(store)
    seen = []
    while (found := next_of(store, token)).page != "finish":
        seen.append((found.page, found.trial.position if found.trial else 0))
        if found.page == "trial":
            cast(store, token, made_ready(store, token))
        elif found.page == "trial_questions":
            assert found.trial is not None
            for question in found.questions:
                respond(store, token, question.id, None, trial_id=found.trial.trial_id)
        else:
            respond(store, token, "remarks", "none")
    assert seen == [
        ("trial", 1), ("trial", 2), ("trial_questions", 2), ("trial", 3), ("trial", 4),
        ("trial_questions", 4), ("trial", 5), ("trial", 6), ("end_questions", 0),
    ]  # fmt: skip
    finish(store, token)
    assert next_of(store, token).page == "ended"


SCREEN = [
    {"kind": "choice", "id": "adult", "when": "start", "text": "Old enough?",
     "options": ["no", "yes"], "accept": ["yes"]},
    {"kind": "text", "id": "name", "when": "start", "text": "Any name?", "required": False},
]  # fmt: skip


def test_questions_at_the_start_come_before_the_first_trial(tmp_path: Path) -> None:
    store = make_store(tmp_path, questions=SCREEN)
    token = token_of(store)
    assert [one.id for one in next_of(store, token).questions] == ["adult", "name"]
    with pytest.raises(StudyError, match="before the comparisons"):
        begin(store, token)
    respond(store, token, "adult", "yes")
    assert next_of(store, token).page == "start_questions"
    assert begin(store, token) is not None  # the other one need not be answered
    respond(store, token, "name", None)
    assert next_of(store, token).page == "trial"


def test_who_does_not_fit_is_screened_out_and_frees_their_place(tmp_path: Path) -> None:
    store = make_store(tmp_path, questions=SCREEN)
    token = token_of(store)
    respond(store, token, "adult", "no")
    assert next_of(store, token).page == "ended"
    assert rows(store, "SELECT status FROM participant") == [("screened",)]
    assert rows(store, "SELECT COUNT(*) FROM cell_pool WHERE state <> 'free'") == [(0,)]
    with pytest.raises(StudyError, match="has ended"):
        respond(store, token, "name", "x")


def test_an_interrupted_trial_is_still_due(store: Store) -> None:
    token = token_of(store)
    trial = begin(store, token)
    found = next_of(store, token)
    assert (found.page, found.trial, found.n_trials) == ("trial", trial, 6)
    again = begin(store, token)
    found = next_of(store, token)
    assert (found.page, found.trial, found.n_trials) == ("trial", again, 6)


def test_while_the_study_is_paused_questions_and_the_end_are_still_reached(store: Store) -> None:
    token = token_of(store)
    store.set_paused(True, actor="tests")
    assert next_of(store, token).page == "paused"
    store.set_paused(False, actor="tests")
    walk(store, token)
    store.set_paused(True, actor="tests")
    while (found := next_of(store, token)).page == "trial_questions":
        assert found.trial is not None
        respond(store, token, "fluent", None, trial_id=found.trial.trial_id)
    assert found.page == "end_questions"
    respond(store, token, "remarks", "none")
    assert next_of(store, token).page == "finish"


@pytest.mark.parametrize("state", ["running", "ready"])
def test_what_was_reported_is_skipped_and_never_shown_again(store: Store, state: str) -> None:
    token = token_of(store)
    cast(store, token, made_ready(store, token))
    trial = begin(store, token) if state == "running" else made_ready(store, token)
    assert trial is not None
    assert (trial.kind, trial.state) == ("main", state)
    report(store, token, trial.trial_id, "it was rude \ud800" + "!" * 5000)
    report(store, token, trial.trial_id)  # a reply was lost
    (stored,) = rows(store, "SELECT choice, reason FROM vote WHERE trial_id = ?", trial.trial_id)
    assert (stored[0], len(stored[1])) == ("skip", 2000)
    assert stored[1].startswith("it was rude ?!")
    later = walk(store, token)
    assert trial.position not in [one.retest_of for one in later]
    assert [one.kind for one in later].count("retest") == 1
    respond(store, token, "remarks", "none")
    finish(store, token)  # questions about what was skipped are not due
    assert {vote.choice for vote in votes(store) if vote.trial == trial.trial_id} == {"skip"}
    with store.database.snapshot() as db:
        verify(db)


def test_who_votes_after_all_is_asked_about_it(store: Store) -> None:
    token = token_of(store)
    cast(store, token, made_ready(store, token))
    trial = made_ready(store, token)
    cast(store, token, trial, "skip")
    assert next_of(store, token).page == "trial"
    vote_id = reopen(store, token, trial.trial_id)
    vote(store, token, Ballot(vote_id=vote_id, choice="L"))
    assert next_of(store, token).page == "trial_questions"


def test_only_what_has_begun_and_is_ones_own_can_be_reported(store: Store) -> None:
    token, other = token_of(store), token_of(store, 1)
    trial = begin(store, other)
    assert trial is not None
    with pytest.raises(StudyError, match="not one of your comparisons"):
        report(store, token, trial.trial_id)
    found = next_of(store, token).trial
    assert found is not None
    with pytest.raises(StudyError, match="is planned, so it can't become voted"):
        report(store, token, found.trial_id)


def test_who_leaves_early_keeps_their_votes_and_frees_their_place(store: Store) -> None:
    token = token_of(store)
    cast(store, token, made_ready(store, token))
    cast(store, token, made_ready(store, token))
    code = stop_early(store, token)
    assert code == stop_early(store, token)
    assert next_of(store, token).page == "ended"
    assert len(votes(store)) == 1
    held = rows(store, "SELECT COUNT(*) FROM cell_pool WHERE state <> 'free'")
    assert held == [(0,)]
