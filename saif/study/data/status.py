"""How a study is going: who came how far, and how sound the data are. Never what was preferred, so
that nobody stops a study, or lets it run, because of its outcome."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from saif.study.data.results import flow, members, n_finished_in
from saif.study.durability.backup import backups
from saif.study.durability.retention import ends_at
from saif.study.store import outbox
from saif.study.store.settings import PURGED, TROUBLES, is_paused, setting
from saif.study.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A job of the housekeeping that fails at present. since: when it began to."""

    job: str
    since: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """participants: status -> how many. target: how many are to finish. places_left: for how many
    more there is room now. void: why trials were called off -> how many. reported: trials that
    participants would not go on with. missed_checks: attention checks missed -> how many
    participants who answered any; too_many_missed: those whom the per-protocol analysis leaves out.
    finished: how many ever did, whether or not they withdrew later. decision_ms: median time from
    both answers to the vote. minutes: median of those who finished.
    uncopied: participants of whom something is still to be copied to the remote place; None where
    there is no such place.
    """

    study: str
    title: str
    version: int
    version_id: str
    paused: bool
    purged_at: str | None
    participants: dict[str, int]
    target: int
    places_left: int
    void: dict[str, int]
    reported: int
    finished: int
    missed_checks: dict[int, int]
    too_many_missed: int
    decision_ms: float | None
    minutes: float | None
    last_backup: str | None
    delete_at: str | None
    uncopied: int | None
    troubles: tuple[Trouble, ...]

    @property
    def missing(self) -> int:
        """How many have yet to finish before the outcome is shown."""
        return max(0, self.target - self.finished)


def status(store: Store) -> Status:
    participants = flow(store)
    del participants["void_trials"]  # told by reason
    missed = members(store).missed_checks
    end = ends_at(store)
    with store.database.reading() as db:
        taken = db.execute("SELECT COUNT(*) FROM cell_pool WHERE state <> 'free'").fetchone()[0]
        void = db.execute(
            "SELECT void_reason, COUNT(*) FROM trial WHERE state = 'void' GROUP BY void_reason"
        ).fetchall()
        reported = db.execute("SELECT COUNT(*) FROM audit WHERE action = 'report'").fetchone()[0]
        decided = db.execute(
            "SELECT decided_ms FROM last_vote JOIN trial USING(trial_id) "
            "WHERE kind = 'main' AND state = 'voted' AND decided_ms IS NOT NULL"
        ).fetchall()
        spans = db.execute(
            "SELECT given_at, at FROM consent JOIN audit ON object = participant_id "
            "WHERE action = 'complete'"
        ).fetchall()
        finished = n_finished_in(db)
        paused, purged = is_paused(db), setting(db, PURGED)
        troubles = json.loads(setting(db, TROUBLES) or "{}")
        n_marked = outbox.n_uncopied(db)
        copied = db.execute("SELECT 1 FROM outbox WHERE acked_at IS NOT NULL LIMIT 1").fetchone()
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
        decision_ms=_median([row[0] for row in decided]),
        minutes=_median([_minutes(*row) for row in spans]),
        last_backup=_stamp(max(copies)) if copies else None,
        delete_at=end.isoformat() if end else None,
        uncopied=n_marked if copied or "copy" in troubles else None,
        troubles=tuple(Trouble(job=job, **told) for job, told in sorted(troubles.items())),
    )


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _minutes(begun: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds() / 60


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
