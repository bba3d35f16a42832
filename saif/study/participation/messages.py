"""The turns of a trial as they are stored: what was said, what was answered, what is said next."""

import sqlite3
from dataclasses import dataclass

from saif.study.design.study_file import FixedPrompts, Study
from saif.study.store.trials import Trial


@dataclass(frozen=True, slots=True)
class Exchange:
    """A turn that is over: the message, and what each side answered. ms: how long that took."""

    message: str
    left: str
    right: str
    ms: float = 0.0


def exchanges(db: sqlite3.Connection, trial: Trial) -> list[Exchange]:
    """The turns of a trial, in order."""
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
    """The message of turn `k`, counted from 0; None in free chat, where the participant types."""
    if not isinstance(study.prompts, FixedPrompts):
        return None
    wanted = {prompt.id: prompt.text for prompt in [*study.prompts.items, *study.prompts.practice]}
    return wanted[trial.prompts[k]]
