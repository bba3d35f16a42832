"""A participant's steps from consent to code: trials, votes, answers to questions, the end.

Each function is one transaction: all of it, or nothing. It takes the participant's token and
refuses, with a StudyError and without a trace, what is not theirs to do or not due yet. What is
written once is kept for good.
"""

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from saif.errors import InputError, StudyError
from saif.study.design.questions import check_answer, is_text
from saif.study.design.study_file import ProlificRecruitment
from saif.study.participation.next_page import unanswered_at, unanswered_on
from saif.study.participation.votes import Choice
from saif.study.store import trials
from saif.study.store.settings import is_paused
from saif.study.store.store import GOING_ON, Participant, Status, Store
from saif.study.store.trials import Trial, VoidReason, fixed_message

MAX_DETAIL = MAX_REASON = 2000
"""Characters of what is said about a trial that is called off; of a vote's free-text reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One arm's answer to one message. details: how it was generated (layer, dose, positions)."""

    arm: str
    side: Literal["L", "R"]
    text: str
    n_tokens: int
    stop: str
    ttft_ms: float | None = None
    total_ms: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """A vote as it comes from the page."""

    vote_id: str
    choice: Choice
    strength: int | None = None
    """1 is the weakest label."""
    reason: str | None = None
    shown_ms: int | None = None
    """From the trial's start until both answers were complete, on the participant's clock."""
    decided_ms: int | None = None
    """From then until the vote."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A vote that is on disk. repeated: whether it was before."""

    vote_id: str
    revision: int
    repeated: bool


def begin(store: Store, token: str) -> Trial | None:
    """The trial that is due, started; None after the last. One whose answers are complete comes
    back as it was; one that was interrupted is called off and issued again, with a new seed."""
    with store.database.transaction() as db:
        who = active_participant(store, db, token)
        if is_paused(db):
            raise StudyError("The study is paused.", hint="Please come back later.")
        if any(one.required for one in unanswered_at(db, store.study, who, "start")):
            raise StudyError("First the questions before the comparisons.")
        trial = trials.current(db, who.id)
        if trial is None or trial.state == "ready":
            return trial
        if trial.state == "running":
            trials.void(db, trial, "interrupted", who.plan_seed)
            store.note(db, who, "void", trial.trial_id, {"reason": "interrupted"})
            trial = trials.current(db, who.id)
            assert trial is not None, "a trial that is called off is issued again"
        trials.begin(db, trial, secrets.token_hex(16), store.now())
        if trial.kind == "retest":
            _show_again(db, trial)
        db.execute("UPDATE participant SET status = 'active' WHERE participant_id = ?", (who.id,))
        store.note(db, who, "begin", trial.trial_id, {"gen_seed": trial.gen_seed})
        store.keep_place(db, who)
        return trials.current(db, who.id)


def add_exchange(
    store: Store, token: str, trial_id: str, answers: Sequence[Answer], text: str | None = None
) -> Trial:
    """Store an exchange of a running trial: the message and both answers, which are complete. The
    last one makes the trial ready for its vote. text: what was typed in free chat."""
    with store.database.transaction() as db:
        who = active_participant(store, db, token)
        trial = own_trial(db, who, trial_id)
        if trial.state != "running":
            raise StudyError(f"This comparison is {trial.state}, so nothing can be added to it.")
        if [(a.side, a.arm) for a in answers] != [("L", trial.left), ("R", trial.right)]:
            raise StudyError("An exchange takes both answers, each on its own side.")
        n_exchanges = "SELECT COUNT(*) FROM turn WHERE trial_id = ?"
        k = db.execute(n_exchanges, (trial_id,)).fetchone()[0]
        message = fixed_message(store.study, trial, k) or text
        if not message or not is_text(message):
            raise InputError("Please type a message.")
        insert = "INSERT INTO turn(trial_id, k, user_text) VALUES (?, ?, ?)"
        turn = db.execute(insert, (trial_id, k + 1, message)).lastrowid
        db.executemany(
            "INSERT INTO generation VALUES (:turn, :arm, :side, :text, :n_tokens, :stop, :ttft_ms, "
            ":total_ms, :details)",
            [asdict(one) | {"turn": turn, "details": json.dumps(one.details)} for one in answers],
        )
        if k + 1 == store.study.trials.turns:
            trials.move(db, trial, "ready")
        store.keep_place(db, who)
        return own_trial(db, who, trial_id)


def call_off(store: Store, token: str, trial_id: str, reason: VoidReason, detail: str = "") -> None:
    """An answer failed, or the participant reports it: hide both and issue the trial again.
    detail: for the researcher, at most MAX_DETAIL characters."""
    with store.database.transaction() as db:
        who = active_participant(store, db, token)
        kept = detail.encode("utf-8", "replace").decode()[:MAX_DETAIL]
        trials.void(db, own_trial(db, who, trial_id), reason, who.plan_seed, detail=kept)
        store.note(db, who, "void", trial_id, {"reason": reason, "detail": kept})


def vote(store: Store, token: str, ballot: Ballot) -> Saved:
    """Cast a vote. The same vote id again is acknowledged and changes nothing, whatever it says."""
    with store.database.transaction() as db:
        who = store.participant(db, token)
        done = db.execute(
            "SELECT revision FROM vote JOIN trial USING(trial_id) "
            "WHERE vote.vote_id = ? AND participant_id = ?",
            (ballot.vote_id, who.id),
        ).fetchone()
        if done:
            return Saved(ballot.vote_id, done["revision"], repeated=True)
        check_active(who)
        trial = trials.by_vote(db, ballot.vote_id)
        if trial is None or trial.participant_id != who.id:
            raise StudyError("That vote is not for a comparison of yours that is open.")
        _check_ballot(store, trial, ballot)
        if trial.state != "voted":  # a revision finds it so
            trials.move(db, trial, "voted")
        revision = _write_vote(store, db, who, trial, ballot)
    return Saved(ballot.vote_id, revision, repeated=False)


def report(store: Store, token: str, trial_id: str, reason: str = "") -> None:
    """The participant won't go on with a comparison, wherever it stands: it counts as skipped, and
    neither it nor a retest of it comes again. Again changes nothing. reason: in their words."""
    with store.database.transaction() as db:
        who = active_participant(store, db, token)
        trial = own_trial(db, who, trial_id)
        if trial.state == "voted":
            return
        trials.move(db, trial, "voted")
        assert trial.vote_id is not None, "it has begun"
        kept = reason.encode("utf-8", "replace").decode()[:MAX_REASON]
        skipped = Ballot(vote_id=trial.vote_id, choice="skip", reason=kept)
        _write_vote(store, db, who, trial, skipped)
        trials.drop_retests(db, trial)
        store.note(db, who, "report", trial_id, {"vote_id": trial.vote_id})


def reopen(store: Store, token: str, trial_id: str) -> str:
    """A new vote id for a trial that was voted on: the next vote is a revision, the first is kept.
    Only until the next trial begins, so that nobody votes on answers they no longer see."""
    with store.database.transaction() as db:
        who = active_participant(store, db, token)
        trial = own_trial(db, who, trial_id)
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
    it was given for has changed. Who answers that they don't fit is screened out. trial_id: of a
    question that is asked after every trial. Raises InputError where the value is no answer."""
    question = next((one for one in store.study.questions if one.id == question_id), None)
    if question is None or (question.when == "trial") != (trial_id is not None):
        raise StudyError(f"There is no question '{question_id}' here.")
    check_answer(question, value)
    with store.database.transaction() as db:
        who = active_participant(store, db, token)
        item, asked_again = question_id, False
        if trial_id is not None:
            trial = own_trial(db, who, trial_id)
            if trial.state != "voted":
                raise StudyError("First the vote, then the questions on it.")
            item = f"{question_id}@{trial_id}"
            asked_again = question in unanswered_on(db, store.study, trial)
        last = db.execute(
            "SELECT revision, value_json FROM response WHERE participant_id = ? AND item_id = ? "
            "ORDER BY revision DESC LIMIT 1",
            (who.id, item),
        ).fetchone()
        text = json.dumps(value, ensure_ascii=False)
        if last and last["value_json"] == text and not asked_again:
            return int(last["revision"])
        revision = last["revision"] + 1 if last else 1
        row = (who.id, item, revision, text, store.now())
        db.execute("INSERT INTO response VALUES (?, ?, ?, ?, ?)", row)
        noted = {"item": item, "revision": revision, "value": value}
        store.note(db, who, "respond", item, noted)
        store.keep_place(db, who)
        if question.kind == "choice" and question.screens_out(value):
            store.leave(db, who, "screened")
    return revision


def finish(store: Store, token: str) -> str:
    """Everything is answered: the completion code, as often as it is asked for. Raises StudyError
    naming what is missing."""
    with store.database.transaction() as db:
        who = store.participant(db, token)
        if who.status != "complete":
            check_active(who)
            if trials.current(db, who.id) is not None:
                raise StudyError("There are comparisons left.")
            own = trials.all_of(db, who.id)
            left = [one for trial in own for one in unanswered_on(db, store.study, trial)]
            for question in [*left, *unanswered_at(db, store.study, who, "end")]:
                if question.required:
                    raise StudyError(f"The question '{question.id}' is still to be answered.")
            store.leave(db, who, "complete")
    return code_for(store, who, "complete")


def stop_early(store: Store, token: str) -> str:
    """The participant leaves, or the researcher has stopped the study: what they did is kept, their
    place is another's. The code for a part of it, or for as far as they came before."""
    with store.database.transaction() as db:
        who = store.participant(db, token)
        if who.status in GOING_ON:
            store.leave(db, who, "stale")
        status = came_to(db, who)
    return code_for(store, who, status)


def came_to(db: sqlite3.Connection, who: Participant) -> Status:
    """How far someone came, whatever they have withdrawn since: it costs nobody their code."""
    ends = "SELECT action FROM audit WHERE object = ? AND action IN ('complete', 'screened')"
    row = db.execute(ends, (who.id,)).fetchone()
    return who.status if row is None else row["action"]


def code_for(store: Store, who: Participant, status: Status) -> str:
    """What a participant shows where they were recruited, from what they came to. Without codes of
    such a place, their receipt."""
    codes = store.study.recruitment
    if not isinstance(codes, ProlificRecruitment):
        return store.receipt(who.id)
    ends = {"complete": codes.complete, "screened": codes.screened_out}
    return ends.get(status, codes.partial)


def active_participant(store: Store, db: sqlite3.Connection, token: str) -> Participant:
    """Whose token this is. Raises StudyError unless they are still in the study."""
    who = store.participant(db, token)
    check_active(who)
    return who


def check_active(who: Participant) -> None:
    """Raises StudyError where someone has ended the study."""
    if who.status not in GOING_ON:
        raise StudyError(f"Your part in this study has ended ({who.status}).")


def own_trial(db: sqlite3.Connection, who: Participant, trial_id: str) -> Trial:
    """The trial of this id. Raises StudyError where it is another participant's, or nobody's."""
    trial = trials.by_id(db, trial_id)
    if trial is None or trial.participant_id != who.id:
        raise StudyError("That is not one of your comparisons.")
    return trial


def _show_again(db: sqlite3.Connection, trial: Trial) -> None:
    """Give a retest the messages and answers that its main trial had, sides swapped."""
    main = (
        "SELECT trial_id FROM trial WHERE participant_id = ? AND position = ? AND state = 'voted'"
    )
    [first] = db.execute(main, (trial.participant_id, trial.retest_of)).fetchone()
    same = "INSERT INTO turn(trial_id, k, user_text) SELECT ?, k, user_text FROM turn"
    db.execute(f"{same} WHERE trial_id = ?", (trial.trial_id, first))
    db.execute(
        "INSERT INTO generation SELECT new.turn_id, arm, CASE side WHEN 'L' THEN 'R' ELSE 'L' END, "
        "output_text, n_tokens, stop_reason, ttft_ms, total_ms, details_json "
        "FROM generation JOIN turn AS old USING(turn_id) JOIN turn AS new ON new.k = old.k "
        "WHERE old.trial_id = ? AND new.trial_id = ?",
        (first, trial.trial_id),
    )
    db.execute("UPDATE trial SET state = 'ready' WHERE trial_id = ?", (trial.trial_id,))


def _write_vote(
    store: Store, db: sqlite3.Connection, who: Participant, trial: Trial, ballot: Ballot
) -> int:
    """Add a revision of a trial's vote; its number."""
    votes = "SELECT COUNT(*) FROM vote WHERE trial_id = ?"
    revision: int = 1 + db.execute(votes, (trial.trial_id,)).fetchone()[0]
    row = asdict(ballot) | {"trial_id": trial.trial_id, "revision": revision}
    row["server_at"] = store.now()
    db.execute(
        "INSERT INTO vote VALUES (:vote_id, :trial_id, :revision, :choice, :strength, :reason, "
        ":shown_ms, :decided_ms, :server_at)",
        row,
    )
    store.note(db, who, "vote", ballot.vote_id, row)
    store.keep_place(db, who)
    return revision


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
