"""Whose votes count, and who came how far: what the analysis, the status and the researcher's page
all go by."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from saif.study.design.study_file import Study
from saif.study.store.store import Store

Population = Literal["everyone", "per-protocol"]
"""Everyone who did not withdraw; or who finished and passed the checks."""

GONE = ("withdrawn", "erased")
"""Statuses of participants of whom nothing counts and nothing is exported."""


@dataclass(frozen=True, slots=True)
class Members:
    """Participants whose votes count, whether or not they have voted."""

    of: Mapping[Population, frozenset[str]]
    """population -> the participants who belong to it."""
    missed_checks: Mapping[str, int]
    """participant -> attention checks answered wrongly; who answered none is left out."""


def members_of(
    study: Study, statuses: Mapping[str, str], checks: Iterable[tuple[str, str | None, str | None]]
) -> Members:
    """statuses: participant -> status. checks: (participant, id of the attention check, choice) of
    every check that was answered, skipping included."""
    right = {check.id: check.answer for check in study.attention}
    missed: Counter[str] = Counter()
    for participant, check, choice in checks:
        missed[participant] += choice != right.get(check or "")
    return Members(
        of={
            "everyone": frozenset(name for name, status in statuses.items() if status not in GONE),
            "per-protocol": frozenset(
                name
                for name, status in statuses.items()
                if status == "complete" and missed[name] <= study.failed_checks
            ),
        },
        missed_checks=dict(missed),
    )


def members(store: Store) -> Members:
    """`members_of` what is in a store now."""
    with store.database.snapshot() as db:
        statuses = db.execute("SELECT participant_id, status FROM participant").fetchall()
        checks = db.execute(
            "SELECT participant_id, check_id, choice FROM last_vote JOIN trial USING(trial_id) "
            "WHERE kind = 'attention' AND state = 'voted'"
        ).fetchall()
    return members_of(store.study, dict(map(tuple, statuses)), [tuple(row) for row in checks])


def flow_in(db: sqlite3.Connection) -> dict[str, int]:
    """How many participants are in each status, and how many trials were called off."""
    found = Counter(
        dict(db.execute("SELECT status, COUNT(*) FROM participant GROUP BY status").fetchall())
    )
    void = db.execute("SELECT COUNT(*) FROM trial WHERE state = 'void'").fetchone()[0]
    statuses = ("enrolled", "active", "complete", "screened", "stale", *GONE)
    return {**{status: found[status] for status in statuses}, "void_trials": void}


def n_finished_in(db: sqlite3.Connection) -> int:
    """How many participants ever finished, those who withdrew afterwards included."""
    n: int = db.execute("SELECT COUNT(*) FROM audit WHERE action = 'complete'").fetchone()[0]
    return n
