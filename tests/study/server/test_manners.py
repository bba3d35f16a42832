"""What a participant may expect: to be told early, to keep their code, to be asked anew."""

from pathlib import Path
from typing import Any

import pytest
from made_up_participants import Clock, cast, complete, made_ready, make_store, person, rows, walk
from running_study import PID, PROLIFIC, Visitor, census, served

from saif.study.participation.next_page import next_page
from saif.study.participation.steps import Ballot, reopen, respond, vote
from saif.study.participation.votes import Choice
from saif.study.server.texts import as_plain, with_addresses
from saif.study.store.store import Store

SCREEN = {"kind": "choice", "id": "adult", "when": "start", "text": "Old enough?",
          "options": ["no", "yes"], "accept": ["yes"]}  # fmt: skip


def is_asked(store: Store, token: str) -> bool:
    with store.database.snapshot() as db:
        return next_page(db, store.study, store.participant(db, token)).page == "trial_questions"


def change(store: Store, token: str, trial: str, choice: Choice) -> None:
    vote(store, token, Ballot(vote_id=reopen(store, token, trial), choice=choice))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path, trials__practice=0, attention=[])


# A code is for what somebody did


@pytest.mark.parametrize("later", [False, True])
def test_who_completed_keeps_their_code_whatever_they_withdraw(tmp_path: Path, later: bool) -> None:
    with served(tmp_path, recruitment=PROLIFIC) as running:
        visitor = running.visitor(PROLIFIC_PID=PID)
        visitor.agree()
        visitor.walk()
        if later:
            visitor.ask("withdraw", receipt=visitor.receipt, scope="analysis")
        else:
            assert visitor.ask("stop", scope="analysis")["completion"]["code"] == "C0MPLETE"
        again = visitor.enter()
        assert (again["status"], again["completion"]["code"]) == ("withdrawn", "C0MPLETE")


def test_who_withdraws_half_way_gets_the_code_for_a_part(tmp_path: Path) -> None:
    with served(tmp_path, recruitment=PROLIFIC) as running:
        visitor = running.visitor(PROLIFIC_PID=PID)
        visitor.agree()
        visitor.vote()
        visitor.ask("stop", scope="analysis")
        assert visitor.enter()["completion"]["code"] == "PARTIAL1"


def test_who_was_screened_out_keeps_that_code_and_learns_nothing(tmp_path: Path) -> None:
    with served(tmp_path, recruitment=PROLIFIC, questions=[SCREEN]) as running:
        visitor = running.visitor(PROLIFIC_PID=PID)
        visitor.agree()
        visitor.ask("respond", question="adult", value="no")
        assert visitor.ask("next")["debrief"] == ""
        assert visitor.ask("stop", scope="analysis")["debrief"] == ""
        end = visitor.enter()
        assert (end["completion"]["code"], end["debrief"]) == ("SCREEN0UT", "")


def test_who_saw_half_an_answer_is_told_what_it_was_about(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        visitor = running.visitor()
        visitor.agree()
        visitor.ask("begin")
        assert "steered" in visitor.ask("stop", scope="erase")["debrief"]


# Questions on a choice that was changed


def test_a_changed_choice_has_its_questions_asked_again(store: Store) -> None:
    token = store.enrol(person(), share_text=True).token
    trial = made_ready(store, token)
    cast(store, token, trial, "L")
    assert respond(store, token, "fluent", 4, trial_id=trial.trial_id) == 1
    assert not is_asked(store, token)
    change(store, token, trial.trial_id, "R")
    assert is_asked(store, token)
    # On a clock that stands still, and with the answer that they gave before.
    assert respond(store, token, "fluent", 4, trial_id=trial.trial_id) == 2
    assert respond(store, token, "fluent", 4, trial_id=trial.trial_id) == 2
    assert not is_asked(store, token)
    assert rows(store, "SELECT revision, value_json FROM response") == [(1, "4"), (2, "4")]


def test_a_choice_that_is_made_once_more_asks_nothing_again(store: Store) -> None:
    token = store.enrol(person(), share_text=True).token
    trial = made_ready(store, token)
    cast(store, token, trial, "L", strength=1)
    respond(store, token, "fluent", 4, trial_id=trial.trial_id)
    change(store, token, trial.trial_id, "L")
    assert not is_asked(store, token)
    change(store, token, trial.trial_id, "R")
    change(store, token, trial.trial_id, "L")  # back again: what was said then is long ago
    assert is_asked(store, token)


def test_practice_shows_the_questions_and_keeps_no_answer(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        visitor = running.visitor()
        visitor.agree()
        trial, vote_id = visitor.ready()
        assert trial["practice"]
        assert [one["id"] for one in trial["questions"]] == ["fluent"]
        visitor.ask("vote", vote_id=vote_id, choice="L")
        assert visitor.ask("next")["page"] == "trial"
        assert "questions" not in visitor.ask("begin")["trial"]


# Told before it matters


def closed_to(visitor: Visitor) -> str:
    found = visitor.enter()
    assert found["page"] == "closed"
    return str(found["why"])


def test_whoever_is_new_learns_before_consent_that_it_is_paused_or_full(tmp_path: Path) -> None:
    with served(tmp_path, quota__complete=2) as running:
        known = running.visitor("known")
        known.agree()
        running.store.set_paused(True, actor="tests")
        before = census(running)
        assert "paused" in closed_to(running.visitor("newcomer"))
        assert census(running) == before
        assert known.enter()["page"] == "paused"
        running.store.set_paused(False, actor="tests")
        assert running.visitor("newcomer").enter() == {"page": "consent"}
        running.visitor("second").agree()
        assert "all the participants" in closed_to(running.visitor("newcomer"))
        assert known.enter()["page"] == "trial"


def test_a_place_that_was_left_long_ago_counts_as_free_to_who_looks(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock, quota__complete=2)
    complete(store, 0)
    store.enrol(person(1), share_text=False)
    assert "all the participants" in store.closed()
    clock.pass_by(minutes=store.study.quota.stale_minutes + 1)
    assert store.closed() == ""
    assert rows(store, "SELECT COUNT(*) FROM cell_pool WHERE state = 'held'") == [(1,)]
    store.enrol(person(2), share_text=False)
    clock.pass_by(days=1)
    complete(store, 3)
    assert "all the participants" in store.closed()  # a place that is done is never free again


@pytest.mark.parametrize("kind", ["prolific", "mturk"])
def test_the_bare_address_says_what_it_is(tmp_path: Path, kind: str) -> None:
    recruitment: dict[str, Any] = {"prolific": PROLIFIC, "mturk": {"kind": kind, "sandbox": True}}
    with served(tmp_path, recruitment=recruitment[kind]) as running:
        visitor = running.visitor(utm="x")
        assert visitor.enter() == {"page": "unknown"}


# Small things


def test_events_of_an_ended_part_are_no_error_and_are_not_kept(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        visitor = running.visitor()
        visitor.agree()
        visitor.walk()
        assert visitor.ask("events", kind="reloaded") == {"saved": False}
        assert rows(running.store, "SELECT COUNT(*) FROM event") == [(0,)]


def test_a_report_does_not_make_the_way_look_shorter(tmp_path: Path) -> None:
    with served(tmp_path, trials__retest=2, attention=[], trials__practice=0) as running:
        visitor = running.visitor()
        page = visitor.agree()
        assert (page["place"], page["of"]) == (1, 4)
        trial = visitor.ask("begin")["trial"]
        visitor.ask("report", trial=trial["id"])
        page = visitor.ask("next")
        assert (page["place"], page["of"]) == (2, 4)


def test_the_place_is_the_same_after_a_restart(tmp_path: Path) -> None:
    store = make_store(tmp_path, resume__policy="restart")
    token = store.enrol(person(), share_text=True).token
    walk(store, token)
    entry = store.enter(person())
    assert entry is not None
    with store.database.snapshot() as db:
        found = next_page(db, store.study, store.participant(db, entry.token))
    assert (found.trial.position, found.n_trials) == (1, 5)


def test_the_copy_to_keep_is_without_marks() -> None:
    text = "# Taking *part*\n\nIt is\nvoluntary.\n\n- `a`\n- [b](http://c.example)\n\n1. d\n\n<x>"
    assert as_plain(text) == (
        "Taking part\n\nIt is\nvoluntary.\n\n- a\n\n- b (http://c.example)\n\n1. d\n\n<x>"
    )
    assert as_plain("<mailto:a@b.example>") == "mailto:a@b.example"


def test_an_address_to_write_to_is_a_link_and_anything_else_is_text() -> None:
    made = with_addresses("Dr <b>X</b>, x.y@uni.example.org.")
    assert made == (
        'Dr &lt;b&gt;X&lt;/b&gt;, <a href="mailto:x.y@uni.example.org">x.y@uni.example.org</a>.'
    )
    assert with_addresses("by post") == "by post"
