"""Data sets of made-up votes, as an analysis reads them, without a store behind them."""

import json
from collections.abc import Sequence
from typing import Any

from made_up_participants import published

from saif.study.analysis.data import StudyData, data_of_tables
from saif.study.data.tables import TABLES, Row
from saif.study.data.unblinding import Look
from saif.study.participation.votes import Vote

STATUSES = ("enrolled", "active", "complete", "screened", "stale", "withdrawn", "erased")
PRESET = "translate-french/post/1"


def empty_row(table: str, **cells: Any) -> Row:
    return {column.name: None for column in TABLES[table][1]} | cells


def length_of_first(position: int) -> int:
    """Tokens of the steered answer; the other has 20."""
    return 12 + 7 * position % 17


def trial_row(vote: Vote, position: int, preset: str = PRESET, **cells: Any) -> Row:
    first_left = vote.left == "steered"
    length = length_of_first(position)
    given = {
        "participant": vote.participant,
        "trial": vote.trial,
        "position": position,
        "attempt": 1,
        "kind": "main",
        "state": "voted",
        "preset": preset,
        "prompts": json.dumps([vote.prompt] if vote.prompt else []),
        "left_arm": vote.left,
        "right_arm": vote.right,
        "choice": vote.choice,
        "tokens_left": length if first_left else 20,
        "tokens_right": 20 if first_left else length,
        "decided_ms": 900 + 700 * position,
    }
    return empty_row("trials", **{**given, **cells})


def trial_rows(votes: Sequence[Vote], preset: str = PRESET) -> list[Row]:
    """Positions count up within each participant."""
    seen: dict[str, int] = {}
    rows = []
    for vote in votes:
        seen[vote.participant] = seen.get(vote.participant, 0) + 1
        rows.append(trial_row(vote, seen[vote.participant], preset))
    return rows


def data_of(
    trials: Sequence[Row],
    *,
    responses: Sequence[Row] = (),
    turns: Sequence[Row] = (),
    looks: Sequence[Look] = (),
    statuses: dict[str, str] | None = None,
    live: bool = False,
    **changes: Any,
) -> StudyData:
    """All participants are complete, but for those in `statuses`."""
    statuses = statuses or {}
    names = list(dict.fromkeys([*(str(row["participant"]) for row in trials), *statuses]))
    version = published(**changes)
    people = [
        empty_row(
            "participants",
            participant=name,
            source="lab",
            version=version.id,
            status=statuses.get(name, "complete"),
        )
        for name in names
    ]
    counts = {status: sum(row["status"] == status for row in people) for status in STATUSES}
    return data_of_tables(
        version,
        {"participants": people, "trials": trials, "turns": turns, "responses": responses},
        {**counts, "void_trials": 0},
        looks,
        hidden=live and counts["complete"] < version.study.quota.complete,
    )
