"""The next page of a participant, from what is stored: the same after any reload or restart."""

import sqlite3
from dataclasses import dataclass
from typing import Literal

from saif.study.design.questions import Question
from saif.study.design.study_file import Study
from saif.study.store import trials
from saif.study.store.settings import is_paused
from saif.study.store.store import GOING_ON, Participant
from saif.study.store.trials import Trial

Page = Literal[
    "start_questions", "trial", "trial_questions", "end_questions", "finish", "paused", "ended"
]
"""The first questions; a comparison; questions on the one just voted on; the last questions; all is
answered; the researcher has stopped the study; the participant is done, or has left."""


@dataclass(frozen=True, slots=True)
class NextPage:
    """What a participant's page is to show."""

    page: Page
    trial: Trial | None = None
    """What the page is about, where it is about one."""
    questions: tuple[Question, ...] = ()
    """Those still to be answered."""
    n_trials: int = 0
    """How many were planned; one that is dropped later doesn't make them fewer."""


def next_page(db: sqlite3.Connection, study: Study, who: Participant) -> NextPage:
    if who.status not in GOING_ON:
        return NextPage("ended")
    if questions := unanswered_at(db, study, who, "start"):
        return NextPage("start_questions", questions=questions)
    own = trials.all_of(db, who.id)
    n_trials = trials.n_planned(db, who.id)
    for trial in own:
        if questions := unanswered_on(db, study, trial):
            return NextPage("trial_questions", trial, questions, n_trials)
    left = [trial for trial in own if trial.state != "voted"]
    if left and is_paused(db):
        return NextPage("paused")
    if left:
        return NextPage("trial", left[0], (), n_trials)
    if questions := unanswered_at(db, study, who, "end"):
        return NextPage("end_questions", questions=questions)
    return NextPage("finish")


def unanswered_on(db: sqlite3.Connection, study: Study, trial: Trial) -> tuple[Question, ...]:
    """The questions asked after a main trial that have no answer yet since it was chosen as it is
    now; none about one that was skipped, whose answers need not be read."""
    if trial.kind != "main" or trial.state != "voted":
        return ()
    found = db.execute("SELECT choice FROM last_vote WHERE trial_id = ?", (trial.trial_id,))
    choice = found.fetchone()["choice"]
    if choice == "skip":
        return ()
    done = _answered(db, trial.participant_id) - _outdated(db, trial, choice)
    return tuple(
        question
        for question in study.questions
        if question.when == "trial" and f"{question.id}@{trial.trial_id}" not in done
    )


def unanswered_at(
    db: sqlite3.Connection, study: Study, who: Participant, when: Literal["start", "end"]
) -> tuple[Question, ...]:
    """The questions asked before the first trial, or after the last, that have no answer yet."""
    done = _answered(db, who.id)
    return tuple(one for one in study.questions if one.when == when and one.id not in done)


def _answered(db: sqlite3.Connection, participant: str) -> set[str]:
    rows = db.execute("SELECT item_id FROM response WHERE participant_id = ?", (participant,))
    return {row["item_id"] for row in rows}


def _outdated(db: sqlite3.Connection, trial: Trial, choice: str) -> set[str]:
    """What was answered before the choice on a trial became this one: it may be about the other
    answer. In the order of the audit trail, because clocks are set back now and then."""
    vote = db.execute(
        "SELECT vote_id FROM vote WHERE trial_id = ? AND revision = 1 + "
        "(SELECT MAX(revision) FROM vote WHERE trial_id = ? AND choice <> ?)",
        (trial.trial_id, trial.trial_id, choice),
    ).fetchone()
    if vote is None:
        return set()
    rows = db.execute(
        "SELECT object FROM audit WHERE action = 'respond' AND actor = ? GROUP BY object "
        "HAVING MAX(seq) < (SELECT seq FROM audit WHERE action = 'vote' AND object = ?)",
        (trial.participant_id, vote["vote_id"]),
    )
    return {row["object"] for row in rows}
