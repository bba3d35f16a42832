"""How sound a study's data are: what was called off or reported, who hurries, what the server did.
Nothing here tells what was preferred."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from saif.study.data.results import Members, members
from saif.study.store.store import Store

HURRIED_MS = 1500
"""Who takes less than this for half of their votes has hardly read two answers."""

LISTED = 500
"""Participants that are listed, newest first."""

CALLED_OFF = 30
"""Comparisons that were called off or reported, of which details are listed, newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One participant. voted: comparisons they have voted on, of `trials`. decision_ms: median."""

    participant: str
    source: str
    status: str
    joined_at: str
    voted: int
    trials: int
    missed_checks: int
    decision_ms: float | None

    @property
    def hurried(self) -> bool:
        return self.decision_ms is not None and self.decision_ms < HURRIED_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """A comparison that does not count. detail: what was said of it, in a participant's words or
    the server's."""

    trial: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """analysed: population -> participants with votes that count. hurried: how many hurried.
    waits_ms: greatest difference between the waits for the two first words; None without answers.
    first_words: greatest difference in steps of what was hidden meanwhile. canaries, events: kind
    -> how many.
    """

    analysed: dict[str, int]
    hurried: int
    waits_ms: float | None
    first_words: int | None
    canaries: dict[str, int]
    events: dict[str, int]
    incidents: tuple[Incident, ...]
    rows: tuple[Row, ...]


def quality(store: Store) -> Quality:
    counted = members(store)
    rows = _participants(store, counted)
    with store.database.reading() as db:
        waits = db.execute(
            "SELECT MAX(ABS(a.ttft_ms - b.ttft_ms)) AS ms, "
            "MAX(ABS(json_extract(a.details_json, '$.text_at_step') "
            "- json_extract(b.details_json, '$.text_at_step'))) AS steps "
            "FROM generation AS a JOIN generation AS b USING(turn_id) "
            "WHERE a.side = 'L' AND b.side = 'R'"
        ).fetchone()
        kinds = Counter(
            dict(db.execute("SELECT kind, COUNT(*) FROM event GROUP BY kind").fetchall())
        )
        found = db.execute(
            "SELECT trial_id AS trial, void_reason AS reason, COALESCE(void_detail, '') AS detail, "
            "started_at FROM trial WHERE state = 'void' "
            "UNION ALL SELECT trial_id, 'reported by the participant', COALESCE(reason, ''), at "
            "FROM audit JOIN vote ON trial_id = object AND revision = 1 WHERE action = 'report' "
            "ORDER BY started_at DESC LIMIT ?",
            (CALLED_OFF,),
        ).fetchall()
        voted = {
            row[0]
            for row in db.execute(
                "SELECT DISTINCT participant_id FROM trial WHERE kind = 'main' AND state = 'voted'"
            )
        }
    return Quality(
        analysed={
            population: len(voted & belonging) for population, belonging in counted.of.items()
        },
        hurried=sum(row.hurried for row in rows),
        waits_ms=waits["ms"],
        first_words=waits["steps"],
        canaries={kind: n for kind, n in sorted(kinds.items()) if kind.startswith("canary")},
        events={kind: n for kind, n in sorted(kinds.items()) if not kind.startswith("canary")},
        incidents=tuple(
            Incident(trial=row["trial"], reason=row["reason"], detail=row["detail"])
            for row in found
        ),
        rows=tuple(rows[:LISTED]),
    )


def _participants(store: Store, counted: Members) -> list[Row]:
    """Everybody, newest first."""
    decided: dict[str, list[float]] = {}
    with store.database.reading() as db:
        found = db.execute(
            "SELECT participant_id, source, status, created_at, "
            "SUM(state = 'voted') AS voted, SUM(state <> 'void') AS trials "
            "FROM participant LEFT JOIN trial USING(participant_id) "
            "GROUP BY participant_id ORDER BY created_at DESC, participant_id"
        ).fetchall()
        for name, ms in db.execute(
            "SELECT participant_id, decided_ms FROM last_vote JOIN trial USING(trial_id) "
            "WHERE kind = 'main' AND state = 'voted' AND decided_ms IS NOT NULL"
        ):
            decided.setdefault(name, []).append(ms)
    return [
        Row(
            participant=row["participant_id"],
            source=row["source"],
            status=row["status"],
            joined_at=row["created_at"],
            voted=row["voted"] or 0,
            trials=row["trials"] or 0,
            missed_checks=counted.missed_checks.get(row["participant_id"], 0),
            decision_ms=_median(decided.get(row["participant_id"])),
        )
        for row in found
    ]


def _median(values: Sequence[float] | None) -> float | None:
    return median(values) if values else None
