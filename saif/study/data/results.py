"""What the store holds for the analysis: the votes that count, and who came how far."""

import sqlite3
from collections import Counter
from typing import Literal

from saif.study.participation.votes import Vote
from saif.study.store.store import Store
from saif.study.store.trials import all_of

Population = Literal["everyone", "per-protocol"]
"""Everyone who finished or left (intention to treat); or who finished and passed the checks."""


def votes(
    store: Store, *, preset: str | None = None, population: Population = "everyone"
) -> list[Vote]:
    """The last revision of each main trial's vote, except of those who withdrew or were erased.

    preset: a label, as in `translate-french/post/1`; None for all. Ordered by participant and
    position. Trials with several prompts in turn are known by the first.
    """
    kept = members(store, population)
    with store.database.snapshot() as db:
        rows = db.execute(
            "SELECT trial.*, last_vote.choice FROM last_vote JOIN trial USING(trial_id) "
            "WHERE kind = 'main' AND state = 'voted' ORDER BY participant_id, position"
        ).fetchall()
        trials = {trial.trial_id: trial for name in kept for trial in all_of(db, name)}
    return [
        Vote(
            trial=row["trial_id"],
            participant=row["participant_id"],
            prompt=next(iter(trials[row["trial_id"]].prompts), None),
            left=row["left_arm"],
            right=row["right_arm"],
            choice=row["choice"],
        )
        for row in rows
        if row["participant_id"] in kept and preset in (None, row["preset"])
    ]


def flow(store: Store) -> dict[str, int]:
    """How many participants are in each status, and how many trials were called off."""
    with store.database.snapshot() as db:
        return flow_in(db)


def flow_in(db: sqlite3.Connection) -> dict[str, int]:
    """The same, of the caller's moment."""
    found = Counter(
        dict(db.execute("SELECT status, COUNT(*) FROM participant GROUP BY status").fetchall())
    )
    void = db.execute("SELECT COUNT(*) FROM trial WHERE state = 'void'").fetchone()[0]
    statuses = ("enrolled", "active", "complete", "screened", "stale", "withdrawn", "erased")
    return {**{status: found[status] for status in statuses}, "void_trials": void}


def n_finished_in(db: sqlite3.Connection) -> int:
    """How many participants ever finished, those who withdrew afterwards included."""
    n: int = db.execute("SELECT COUNT(*) FROM audit WHERE action = 'complete'").fetchone()[0]
    return n


def missed_checks(store: Store) -> dict[str, int]:
    """participant -> how many attention checks they answered, and answered wrongly."""
    right = {check.id: check.answer for check in store.study.attention}
    missed: Counter[str] = Counter()
    with store.database.snapshot() as db:
        for row in db.execute(
            "SELECT participant_id, check_id, choice FROM last_vote JOIN trial USING(trial_id) "
            "WHERE kind = 'attention' AND state = 'voted'"
        ):
            missed[row["participant_id"]] += row["choice"] != right.get(row["check_id"])
    return dict(missed)


def members(store: Store, population: Population) -> set[str]:
    """The participants who belong to a population, whether or not they have voted."""
    missed = missed_checks(store)
    with store.database.snapshot() as db:
        rows = db.execute("SELECT participant_id, status FROM participant").fetchall()
    if population == "everyone":
        return {row[0] for row in rows if row[1] not in ("withdrawn", "erased")}
    return {
        row[0]
        for row in rows
        if row[1] == "complete" and missed.get(row[0], 0) <= store.study.failed_checks
    }
