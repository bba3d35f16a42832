"""Votes, reports and the answers to questions: written once, kept for good.

As in `saif.study.participation.steps`, each function is one transaction that refuses what is not
due.
"""

import json
import secrets
import sqlite3
from dataclasses import dataclass

from saif.errors import InputError, StudyError
from saif.study.design.questions import check_answer, is_text
from saif.study.participation.next_page import unanswered_on
from saif.study.participation.steps import going_on, must_go_on, own
from saif.study.participation.votes import Choice
from saif.study.store import trials
from saif.study.store.participant import Participant
from saif.study.store.store import Store
from saif.study.store.trials import Trial

MAX_REASON = 2000
"""Characters of a vote's free-text reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """A vote as it comes from the page. strength: 1 is the weakest label. shown_ms, decided_ms: on
    the participant's monotonic clock, since the answers were complete."""

    vote_id: str
    choice: Choice
    strength: int | None = None
    reason: str | None = None
    shown_ms: int | None = None
    decided_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """The vote is on disk. repeated: it was already."""

    vote_id: str
    revision: int
    repeated: bool


def vote(store: Store, token: str, ballot: Ballot) -> Saved:
    """Cast a vote. The same vote id again is acknowledged and changes nothing, whatever it says.

    The vote, the trial's state, the audit trail and the outbox are written together.
    """
    with store.database.transaction() as db:
        who = store.participant(db, token)
        done = db.execute(
            "SELECT revision FROM vote JOIN trial USING(trial_id) "
            "WHERE vote.vote_id = ? AND participant_id = ?",
            (ballot.vote_id, who.id),
        ).fetchone()
        if done:
            return Saved(ballot.vote_id, done["revision"], repeated=True)
        must_go_on(who)
        trial = trials.by_vote(db, ballot.vote_id)
        if trial is None or trial.participant_id != who.id:
            raise StudyError("That vote is not for a comparison of yours that is open.")
        _check_ballot(store, trial, ballot)
        if trial.state != "voted":  # a revision finds it so
            trials.move(db, trial, "voted")
        revision = (
            1
            + db.execute(
                "SELECT COUNT(*) FROM vote WHERE trial_id = ?", (trial.trial_id,)
            ).fetchone()[0]
        )
        _write(store, db, who, trial, ballot, revision)
        store.alive(db, who)
    return Saved(ballot.vote_id, revision, repeated=False)


def report(store: Store, token: str, trial_id: str, reason: str = "") -> None:
    """The participant won't go on with a comparison, wherever it stands: it counts as skipped, and
    neither it nor a retest of it comes again.

    Again is acknowledged and changes nothing. reason: in their words, cut at MAX_REASON characters.
    """
    with store.database.transaction() as db:
        who = going_on(store, db, token)
        trial = own(db, who, trial_id)
        if trial.state == "voted":
            return
        trials.move(db, trial, "voted")
        assert trial.vote_id is not None, "it has begun"
        told = reason.encode("utf-8", "replace").decode()[:MAX_REASON]
        skipped = Ballot(vote_id=trial.vote_id, choice="skip", reason=told)
        _write(store, db, who, trial, skipped, revision=1)
        trials.drop_retests(db, trial)
        store.note(db, who, "report", trial_id, {"vote_id": trial.vote_id})
        store.alive(db, who)


def reopen(store: Store, token: str, trial_id: str) -> str:
    """A new vote id for a trial that was voted on: the next vote is a revision, the first is kept.

    Only until the next trial begins, so that nobody votes on answers they no longer see.
    """
    with store.database.transaction() as db:
        who = going_on(store, db, token)
        trial = own(db, who, trial_id)
        after = trials.current(db, who.id)
        last = after is None or (after.position == trial.position + 1 and after.state == "planned")
        if trial.state != "voted" or not last:
            raise StudyError("This vote can no longer be changed.")
        vote_id = secrets.token_hex(16)
        db.execute("UPDATE trial SET vote_id = ? WHERE trial_id = ?", (vote_id, trial_id))
        return vote_id


def respond(
    store: Store, token: str, question_id: str, value: object, *, trial_id: str | None = None
) -> int:
    """Answer a question; its revision. The same answer again changes nothing, unless the vote that
    it was given for has changed.

    trial_id: of a question that is asked after every trial. Who answers that they don't fit is
    screened out. Raises InputError where the value is no answer.
    """
    question = next((one for one in store.study.questions if one.id == question_id), None)
    if question is None or (question.when == "trial") != (trial_id is not None):
        raise StudyError(f"There is no question '{question_id}' here.")
    check_answer(question, value)
    with store.database.transaction() as db:
        who = going_on(store, db, token)
        item, asked_again = question_id, False
        if trial_id is not None:
            trial = own(db, who, trial_id)
            if trial.state != "voted":
                raise StudyError("First the vote, then the questions on it.")
            item = f"{question_id}@{trial_id}"
            asked_again = question in unanswered_on(db, store.study, trial)
        last = db.execute(
            "SELECT revision, value_json FROM response WHERE participant_id = ? AND item_id = ? "
            "ORDER BY revision DESC LIMIT 1",
            (who.id, item),
        ).fetchone()
        told = json.dumps(value, ensure_ascii=False)
        if last and last["value_json"] == told and not asked_again:
            return int(last["revision"])
        revision = last["revision"] + 1 if last else 1
        db.execute(
            "INSERT INTO response VALUES (?, ?, ?, ?, ?)",
            (who.id, item, revision, told, store.now()),
        )
        payload = {"item": item, "revision": revision, "value": value}
        store.note(db, who, "respond", item, payload)
        store.alive(db, who)
        if question.kind == "choice" and question.screens_out(value):
            store.leave(db, who, "screened")
    return revision


def _write(
    store: Store,
    db: sqlite3.Connection,
    who: Participant,
    trial: Trial,
    ballot: Ballot,
    revision: int,
) -> None:
    row = {
        "vote_id": ballot.vote_id,
        "trial_id": trial.trial_id,
        "revision": revision,
        "choice": ballot.choice,
        "strength": ballot.strength,
        "reason": ballot.reason,
        "shown_ms": ballot.shown_ms,
        "decided_ms": ballot.decided_ms,
        "server_at": store.now(),
    }
    db.execute("INSERT INTO vote VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(row.values()))
    store.note(db, who, "vote", ballot.vote_id, row)


def _check_ballot(store: Store, trial: Trial, ballot: Ballot) -> None:
    """Raises InputError where the ballot doesn't fit its trial, StudyError where it is too soon."""
    if trial.state not in ("ready", "voted"):
        raise StudyError("The answers are not complete yet.")
    preference = store.study.preference
    choices = ("L", "R", "skip") if trial.kind == "attention" else preference.choices
    if ballot.choice not in choices:
        raise InputError(f"Please choose one of: {', '.join(choices)}.")
    if ballot.strength is not None and not (
        ballot.choice in ("L", "R") and 1 <= ballot.strength <= len(preference.strength)
    ):
        raise InputError("That strength of preference was not offered.")
    if not is_text(ballot.reason or "") or len(ballot.reason or "") > MAX_REASON:
        raise InputError(f"A reason is a text of up to {MAX_REASON} characters.")
