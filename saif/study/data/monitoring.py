"""Monitoring of a running study: who came how far, and how sound the data are. Never what was
preferred, so that nobody stops a study, or lets it run, because of its outcome."""

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from saif.study.data.results import flow_in, members, n_finished_in
from saif.study.durability.backup import backups
from saif.study.durability.erasure import ends_at
from saif.study.durability.remote import n_uncopied
from saif.study.store.settings import COPIED, PURGED, TROUBLES, is_paused, setting
from saif.study.store.store import Store

HURRIED_MS = 1500
"""Who takes less than this for half of their votes has hardly read two answers."""

LISTED = 500
"""Participants that are listed, newest first."""

CALLED_OFF = 30
"""Comparisons that were called off or reported, of which details are listed, newest first."""


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
    troubles: tuple[dict[str, str], ...]
    """Jobs of the housekeeping that fail at present: job, since when, problem."""

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
    incidents: tuple[dict[str, str], ...]
    """Comparisons that don't count: trial, reason, and in detail what a participant or the server
    said of it."""
    rows: tuple[Row, ...]


def status(store: Store) -> Status:
    missed = members(store).missed_checks
    end = ends_at(store)
    with store.database.snapshot() as db:
        participants = flow_in(db)
        taken = db.execute("SELECT COUNT(*) FROM cell_pool WHERE state <> 'free'").fetchone()[0]
        void = db.execute(
            "SELECT void_reason, COUNT(*) FROM trial WHERE state = 'void' GROUP BY void_reason"
        ).fetchall()
        reported = db.execute("SELECT COUNT(*) FROM audit WHERE action = 'report'").fetchone()[0]
        decided = [ms for own in _decided_in(db).values() for ms in own]
        minutes = [
            (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds() / 60
            for begun, ended in db.execute(
                "SELECT given_at, at FROM consent JOIN audit ON object = participant_id "
                "WHERE action = 'complete'"
            )
        ]
        finished = n_finished_in(db)
        paused, purged = is_paused(db), setting(db, PURGED)
        troubles = json.loads(setting(db, TROUBLES) or "{}")
        has_remote = setting(db, COPIED) is not None or "copy" in troubles
        uncopied = n_uncopied(db) if has_remote else None
    copies = [path.stat().st_mtime for path in backups(store.folder)]
    latest = datetime.fromtimestamp(max(copies)) if copies else None
    return Status(
        study=store.study.id,
        title=store.study.title,
        version=store.version.number,
        version_id=store.version.id,
        paused=paused,
        purged_at=purged,
        participants={name: n for name, n in participants.items() if name != "void_trials"},
        target=store.study.quota.complete,
        places_left=max(0, store.study.quota.complete - taken),
        void=dict(map(tuple, void)),
        reported=reported,
        finished=finished,
        missed_checks=dict(sorted(Counter(missed.values()).items())),
        too_many_missed=sum(n > store.study.failed_checks for n in missed.values()),
        decision_ms=median(decided) if decided else None,
        minutes=median(minutes) if minutes else None,
        last_backup=latest.astimezone().isoformat(timespec="seconds") if latest else None,
        delete_at=end.isoformat() if end else None,
        uncopied=uncopied,
        troubles=tuple({"job": job, **told} for job, told in sorted(troubles.items())),
    )


def _decided_in(db: sqlite3.Connection) -> dict[str, list[float]]:
    """participant -> milliseconds until each of their votes."""
    decided: dict[str, list[float]] = {}
    for participant, ms in db.execute(
        "SELECT participant_id, decided_ms FROM last_vote JOIN trial USING(trial_id) "
        "WHERE kind = 'main' AND state = 'voted' AND decided_ms IS NOT NULL"
    ):
        decided.setdefault(participant, []).append(ms)
    return decided


def quality(store: Store) -> Quality:
    counted = members(store)
    with store.database.snapshot() as db:
        waits = db.execute(
            "SELECT MAX(ABS(a.ttft_ms - b.ttft_ms)) AS ms, "
            "MAX(ABS(json_extract(a.details_json, '$.text_at_step') "
            "- json_extract(b.details_json, '$.text_at_step'))) AS steps "
            "FROM generation AS a JOIN generation AS b USING(turn_id) "
            "WHERE a.side = 'L' AND b.side = 'R'"
        ).fetchone()
        events = db.execute(
            "SELECT kind, COUNT(*) FROM event GROUP BY kind ORDER BY kind"
        ).fetchall()
        incidents = db.execute(
            "SELECT trial_id AS trial, void_reason AS reason, COALESCE(void_detail, '') AS detail, "
            "started_at FROM trial WHERE state = 'void' "
            "UNION ALL SELECT trial_id, 'reported by the participant', COALESCE(reason, ''), at "
            "FROM audit JOIN vote ON trial_id = object AND revision = 1 WHERE action = 'report' "
            "ORDER BY started_at DESC LIMIT ?",
            (CALLED_OFF,),
        ).fetchall()
        found = db.execute(
            "SELECT participant_id AS name, source, status, created_at, "
            "TOTAL(state = 'voted') AS voted, TOTAL(state <> 'void') AS trials, "
            "TOTAL(state = 'voted' AND kind = 'main') AS main "
            "FROM participant LEFT JOIN trial USING(participant_id) "
            "GROUP BY participant_id ORDER BY created_at DESC, participant_id"
        ).fetchall()
        decided = _decided_in(db)
    rows = tuple(
        Row(
            participant=row["name"],
            source=row["source"],
            status=row["status"],
            joined_at=row["created_at"],
            voted=int(row["voted"]),
            trials=int(row["trials"]),
            missed_checks=counted.missed_checks.get(row["name"], 0),
            decision_ms=median(decided[row["name"]]) if row["name"] in decided else None,
        )
        for row in found
    )
    voted = {row["name"] for row in found if row["main"]}
    return Quality(
        analysed={name: len(voted & belonging) for name, belonging in counted.of.items()},
        hurried=sum(row.hurried for row in rows),
        waits_ms=waits["ms"],
        first_words=waits["steps"],
        canaries={kind: n for kind, n in events if kind.startswith("canary")},
        events={kind: n for kind, n in events if not kind.startswith("canary")},
        incidents=tuple(
            {name: row[name] for name in ("trial", "reason", "detail")} for row in incidents
        ),
        rows=rows[:LISTED],
    )
