"""Monitoring of a running study: who came how far, and how sound the data are. Never what was
preferred, so that nobody stops a study, or lets it run, because of its outcome."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from saif.study.data.results import Members, flow, members, n_finished_in
from saif.study.durability.backup import backups
from saif.study.durability.remote import n_uncopied
from saif.study.durability.retention import ends_at
from saif.study.store.settings import COPIED, PURGED, TROUBLES, is_paused, setting
from saif.study.store.store import Store

HURRIED_MS = 1500
"""Who takes less than this for half of their votes has hardly read two answers."""

LISTED = 500
"""Participants that are listed, newest first."""

CALLED_OFF = 30
"""Comparisons that were called off or reported, of which details are listed, newest first."""

_DECIDED = (
    "SELECT participant_id, decided_ms FROM last_vote JOIN trial USING(trial_id) "
    "WHERE kind = 'main' AND state = 'voted' AND decided_ms IS NOT NULL"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A job of the housekeeping that fails at present. since: when it began to."""

    job: str
    since: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a study is going."""

    study: str
    title: str
    version: int
    version_id: str
    paused: bool
    purged_at: str | None
    participants: dict[str, int]
    """Status -> how many."""
    target: int
    """How many are to finish."""
    places_left: int
    """How many more can join now."""
    void: dict[str, int]
    """Why trials were called off -> how many."""
    reported: int
    """Trials that participants would not go on with."""
    finished: int
    """How many ever did, whether or not they withdrew later."""
    missed_checks: dict[int, int]
    """Attention checks missed -> how many participants who answered any."""
    too_many_missed: int
    """How many the per-protocol analysis leaves out for that."""
    decision_ms: float | None
    """Median time from both answers to the vote."""
    minutes: float | None
    """Median of those who finished."""
    last_backup: str | None
    delete_at: str | None
    uncopied: int | None
    """Participants not yet copied as they are now; None without a remote place."""
    troubles: tuple[Trouble, ...]

    @property
    def missing(self) -> int:
        """How many have yet to finish before the outcome is shown."""
        return max(0, self.target - self.finished)


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


def status(store: Store) -> Status:
    participants = flow(store)
    del participants["void_trials"]  # told by reason
    missed = members(store).missed_checks
    end = ends_at(store)
    with store.database.snapshot() as db:
        taken = db.execute("SELECT COUNT(*) FROM cell_pool WHERE state <> 'free'").fetchone()[0]
        void = db.execute(
            "SELECT void_reason, COUNT(*) FROM trial WHERE state = 'void' GROUP BY void_reason"
        ).fetchall()
        reported = db.execute("SELECT COUNT(*) FROM audit WHERE action = 'report'").fetchone()[0]
        decided = db.execute(_DECIDED).fetchall()
        spans = db.execute(
            "SELECT given_at, at FROM consent JOIN audit ON object = participant_id "
            "WHERE action = 'complete'"
        ).fetchall()
        finished = n_finished_in(db)
        paused, purged = is_paused(db), setting(db, PURGED)
        troubles = json.loads(setting(db, TROUBLES) or "{}")
        has_remote = setting(db, COPIED) is not None or "copy" in troubles
        uncopied = n_uncopied(db) if has_remote else None
    copies = [path.stat().st_mtime for path in backups(store.folder)]
    return Status(
        study=store.study.id,
        title=store.study.title,
        version=store.version.number,
        version_id=store.version.id,
        paused=paused,
        purged_at=purged,
        participants=participants,
        target=store.study.quota.complete,
        places_left=max(0, store.study.quota.complete - taken),
        void=dict(map(tuple, void)),
        reported=reported,
        finished=finished,
        missed_checks=dict(sorted(Counter(missed.values()).items())),
        too_many_missed=sum(n > store.study.failed_checks for n in missed.values()),
        decision_ms=_median([row[1] for row in decided]),
        minutes=_median([_minutes(*row) for row in spans]),
        last_backup=_stamp(max(copies)) if copies else None,
        delete_at=end.isoformat() if end else None,
        uncopied=uncopied,
        troubles=tuple(Trouble(job=job, **told) for job, told in sorted(troubles.items())),
    )


def _minutes(begun: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds() / 60


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def quality(store: Store) -> Quality:
    counted = members(store)
    rows = _participants(store, counted)
    with store.database.snapshot() as db:
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
    with store.database.snapshot() as db:
        found = db.execute(
            "SELECT participant_id, source, status, created_at, "
            "SUM(state = 'voted') AS voted, SUM(state <> 'void') AS trials "
            "FROM participant LEFT JOIN trial USING(participant_id) "
            "GROUP BY participant_id ORDER BY created_at DESC, participant_id"
        ).fetchall()
        for name, ms in db.execute(_DECIDED):
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
