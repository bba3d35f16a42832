"""The states of a trial: planned → running → ready → voted, or void and issued again.

Every function works inside the caller's transaction. Only `ready` trials, whose two answers are
complete and stored, can be voted on.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from saif.errors import StudyError
from saif.study.design.plan import PlannedTrial, gen_seed
from saif.study.design.study_file import FixedPrompts, Study

State = Literal["planned", "running", "ready", "voted", "void"]

VoidReason = Literal["interrupted", "failed", "reported", "restarted"]
"""The participant was gone meanwhile; an answer failed; they reported it; they start afresh."""

MOVES: dict[State, set[State]] = {
    "planned": {"running"},
    "running": {"ready", "voted", "void"},  # voted: reported, before both answers were there
    "ready": {"voted", "void"},
    "voted": {"void"},  # only where a participant starts afresh
    "void": set(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(PlannedTrial):
    """One attempt at one position of a plan."""

    trial_id: str
    participant_id: str
    attempt: int
    state: State
    vote_id: str | None
    """Made when it starts; a vote that is sent twice carries it twice."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message in a trial and both its answers. ms: how long making them took."""

    message: str
    left: str
    right: str
    ms: float = 0.0


_COLUMNS = (
    "trial_id, participant_id, position, attempt, kind, retest_of, check_id, preset, prompts_json, "
    "left_arm, right_arm, gen_seed, state"
)


def issue(db: sqlite3.Connection, participant: str, plan: Sequence[PlannedTrial]) -> None:
    """Write a participant's whole plan."""
    db.executemany(
        f"INSERT INTO trial({_COLUMNS}) VALUES (:trial_id, :participant, :position, 1, :kind, "
        ":retest_of, :check, :preset, :prompts, :left, :right, :gen_seed, 'planned')",
        [
            asdict(planned)
            | {
                "trial_id": trial_id(participant, planned.position, 1),
                "participant": participant,
                "prompts": json.dumps(planned.prompts),
            }
            for planned in plan
        ],
    )


def trial_id(participant: str, position: int, attempt: int) -> str:
    return f"{participant}-{position}-{attempt}"


def current(db: sqlite3.Connection, participant: str) -> Trial | None:
    """The trial that is to be voted on next; None after the last."""
    due = "state IN ('planned', 'running', 'ready') ORDER BY position LIMIT 1"
    return _one(db, f"participant_id = ? AND {due}", participant)


def by_id(db: sqlite3.Connection, trial: str) -> Trial | None:
    return _one(db, "trial_id = ?", trial)


def by_vote(db: sqlite3.Connection, vote_id: str) -> Trial | None:
    """The trial that this vote id was made for and is still good for."""
    return _one(db, "vote_id = ?", vote_id)


def begin(db: sqlite3.Connection, trial: Trial, vote_id: str, now: str) -> None:
    """Start a planned trial. An attention check has no answers to wait for: it is ready at once."""
    move(db, trial, "running")
    start = "UPDATE trial SET vote_id = ?, started_at = ? WHERE trial_id = ?"
    db.execute(start, (vote_id, now, trial.trial_id))
    if trial.kind == "attention":
        db.execute("UPDATE trial SET state = 'ready' WHERE trial_id = ?", (trial.trial_id,))


def move(db: sqlite3.Connection, trial: Trial, state: State) -> None:
    """Raises StudyError where the trial can't go from its state to this one."""
    if state not in MOVES[trial.state]:
        raise StudyError(f"This comparison is {trial.state}, so it can't become {state}.")
    change = "UPDATE trial SET state = ? WHERE trial_id = ? AND state = ?"
    if db.execute(change, (state, trial.trial_id, trial.state)).rowcount != 1:
        raise StudyError("This comparison has changed meanwhile.", hint="Please reload the page.")


def void(
    db: sqlite3.Connection, trial: Trial, reason: VoidReason, plan_seed: str, *, detail: str = ""
) -> None:
    """Call off a trial and issue it again, with a new sampling seed; a retest, with the seed of the
    answers that it will show. What was written of it stays. detail: what was said about it."""
    if "void" not in MOVES[trial.state] or (trial.state == "voted" and reason != "restarted"):
        raise StudyError(f"This comparison is {trial.state}, so it can't be called off.")
    db.execute(
        "UPDATE trial SET state = 'void', void_reason = ?, void_detail = ?, vote_id = NULL "
        "WHERE trial_id = ?",
        (reason, detail or None, trial.trial_id),
    )
    own = "participant_id = ? AND state"
    if trial.retest_of is not None:
        counts = f"SELECT gen_seed FROM trial WHERE {own} <> 'void' AND position = ?"
        [seed] = db.execute(counts, (trial.participant_id, trial.retest_of)).fetchone()
    else:
        seed = gen_seed(plan_seed, trial.position, trial.attempt + 1)
        retests = f"UPDATE trial SET gen_seed = ? WHERE {own} = 'planned' AND retest_of = ?"
        db.execute(retests, (seed, trial.participant_id, trial.position))
    again = trial_id(trial.participant_id, trial.position, trial.attempt + 1)
    db.execute(
        f"INSERT INTO trial({_COLUMNS}) "
        "SELECT ?, participant_id, position, attempt + 1, kind, retest_of, check_id, "
        "preset, prompts_json, left_arm, right_arm, ?, 'planned' FROM trial WHERE trial_id = ?",
        (again, seed, trial.trial_id),
    )


def drop_retests(db: sqlite3.Connection, trial: Trial) -> None:
    """Leave out the retests of a trial that its participant doesn't want to see again."""
    retests = "participant_id = ? AND retest_of = ? AND state = 'planned'"
    drop = f"UPDATE trial SET state = 'void', void_reason = 'reported' WHERE {retests}"
    db.execute(drop, (trial.participant_id, trial.position))


def all_of(db: sqlite3.Connection, participant: str) -> list[Trial]:
    """Every trial of a participant that isn't void, in order."""
    own = "SELECT * FROM trial WHERE participant_id = ? AND state <> 'void' ORDER BY position"
    return [_trial(row) for row in db.execute(own, (participant,))]


def n_planned(db: sqlite3.Connection, participant: str) -> int:
    """How many trials a participant's plan has, those included that they won't see any more."""
    longest = "SELECT COALESCE(MAX(position), 0) FROM trial WHERE participant_id = ?"
    return int(db.execute(longest, (participant,)).fetchone()[0])


def exchanges(db: sqlite3.Connection, trial: Trial) -> list[Exchange]:
    """The exchanges of a trial, in order."""
    rows = db.execute(
        "SELECT user_text, a.output_text AS a, b.output_text AS b, a.total_ms AS ms FROM turn "
        "JOIN generation AS a ON a.turn_id = turn.turn_id AND a.side = 'L' "
        "JOIN generation AS b ON b.turn_id = turn.turn_id AND b.side = 'R' "
        "WHERE trial_id = ? ORDER BY k",
        (trial.trial_id,),
    )
    return [Exchange(row["user_text"], row["a"], row["b"], row["ms"] or 0.0) for row in rows]


def has_seen_answers(db: sqlite3.Connection, participant: str) -> bool:
    """Whether any answer was shown to a participant, be it in part."""
    begun = "participant_id = ? AND kind <> 'attention' AND started_at IS NOT NULL"
    return db.execute(f"SELECT 1 FROM trial WHERE {begun}", (participant,)).fetchone() is not None


def fixed_message(study: Study, trial: Trial, k: int) -> str | None:
    """The message of exchange `k`, counted from 0; None in free chat, where it is typed."""
    if not isinstance(study.prompts, FixedPrompts):
        return None
    wanted = {prompt.id: prompt.text for prompt in [*study.prompts.items, *study.prompts.practice]}
    return wanted[trial.prompts[k]]


def _one(db: sqlite3.Connection, where: str, value: str) -> Trial | None:
    row = db.execute(f"SELECT * FROM trial WHERE {where}", (value,)).fetchone()
    return None if row is None else _trial(row)


def _trial(row: sqlite3.Row) -> Trial:
    own = {"left": row["left_arm"], "right": row["right_arm"], "check": row["check_id"]}
    own["prompts"] = tuple(json.loads(row["prompts_json"]))
    return Trial(**own, **{one.name: row[one.name] for one in fields(Trial) if one.name not in own})
