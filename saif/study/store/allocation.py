"""Allocation of participants to arm orders in permuted blocks, and who may join or come back.

Each place in a block is free, held by one participant, or done. Everything works inside the
caller's transaction, so that two who join at once can't get the same place. Who drops out gives the
place back, and the next to join gets the oldest free one: blocks fill up.
"""

import sqlite3
from datetime import datetime, timedelta

from saif.errors import StudyError
from saif.study.design.plan import block
from saif.study.design.study_file import Study
from saif.study.store.identities import Source
from saif.study.store.settings import is_paused

TABLE = """
CREATE TABLE cell_pool(
  version_id TEXT NOT NULL, block INTEGER NOT NULL, place INTEGER NOT NULL, cell TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('free', 'held', 'done')),
  participant_id TEXT UNIQUE, held_until TEXT,
  PRIMARY KEY(version_id, block, cell),
  CHECK((state = 'free') = (participant_id IS NULL)));
CREATE INDEX free_places ON cell_pool(version_id, block, place) WHERE state = 'free';
"""


def assign(
    db: sqlite3.Connection, study: Study, version_id: str, participant: str, held_until: str
) -> tuple[int, str]:
    """Hold the oldest free place for a participant; its block and arm order."""
    found = _oldest_free(db, version_id)
    if found is None:
        newest = "SELECT COALESCE(MAX(block), 0) FROM cell_pool WHERE version_id = ?"
        number = 1 + db.execute(newest, (version_id,)).fetchone()[0]
        db.executemany(
            "INSERT INTO cell_pool VALUES (?, ?, ?, ?, 'free', NULL, NULL)",
            [(version_id, number, *each) for each in enumerate(block(study, number))],
        )
        found = _oldest_free(db, version_id)
    assert found is not None, "a block holds at least one arm order"
    db.execute(
        "UPDATE cell_pool SET state = 'held', participant_id = ?, held_until = ? "
        "WHERE version_id = ? AND block = ? AND cell = ?",
        (participant, held_until, version_id, *found),
    )
    return found


def _oldest_free(db: sqlite3.Connection, version_id: str) -> tuple[int, str] | None:
    free = "SELECT block, cell FROM cell_pool WHERE version_id = ? AND state = 'free'"
    row = db.execute(f"{free} ORDER BY block, place LIMIT 1", (version_id,)).fetchone()
    return None if row is None else (row[0], row[1])


def extend(db: sqlite3.Connection, participant: str, until: str) -> None:
    """Hold the participant's place for longer: they are still there."""
    held = "UPDATE cell_pool SET held_until = ? WHERE participant_id = ? AND state = 'held'"
    db.execute(held, (until, participant))


def complete(db: sqlite3.Connection, participant: str) -> None:
    """The participant is complete; the place is used."""
    used = "UPDATE cell_pool SET state = 'done', held_until = NULL WHERE participant_id = ?"
    db.execute(used, (participant,))


def release(db: sqlite3.Connection, participant: str) -> None:
    """The participant's data do not count; another may have the place. Nothing if there is none."""
    free = "UPDATE cell_pool SET state = 'free', participant_id = NULL, held_until = NULL"
    db.execute(f"{free} WHERE participant_id = ?", (participant,))


def overdue(db: sqlite3.Connection, now: str) -> list[str]:
    """Participants who hold a place and have been away for too long."""
    away = "SELECT participant_id FROM cell_pool WHERE state = 'held' AND held_until < ? ORDER BY 1"
    return [row[0] for row in db.execute(away, (now,))]


def check_may_join(db: sqlite3.Connection, study: Study, now: str) -> None:
    """Raises StudyError, in words for the participant, where the study is paused or full. A place
    held until before `now` is free, whether or not it was given back yet."""
    if is_paused(db):
        raise StudyError("The study is paused.", hint="Please come back later.")
    taken = "state = 'done' OR (state = 'held' AND held_until >= ?)"
    places = db.execute(f"SELECT COUNT(*) FROM cell_pool WHERE {taken}", (now,)).fetchone()[0]
    if places >= study.quota.complete:
        raise StudyError("The study has all the participants it needs. Thank you!")


def check_may_return(row: sqlite3.Row, study: Study, now: datetime) -> None:
    """Raises StudyError, in words for the participant, where they may not come back. row: theirs,
    of the table `participant`."""
    if study.resume.policy == "block" and row["status"] == "active":
        raise StudyError("The study can't be continued once it was left.")
    hours = study.resume.max_age_hours
    if now - datetime.fromisoformat(row["created_at"]) > timedelta(hours=hours):
        raise StudyError(f"You began more than {hours} hours ago, too long ago.")


def check_not_mixed(db: sqlite3.Connection, source: Source) -> None:
    """Raises StudyError where people would meet simulated participants, or the reverse."""
    bots = source == "bot"
    found = "SELECT MIN(study_id) FROM participant WHERE (source = 'bot') <> ?"
    [other] = db.execute(found, (bots,)).fetchone()
    if other:
        raise StudyError(
            f"The store of '{other}' holds {'people' if bots else 'simulated participants'}.",
            hint="Play a study in a folder of its own.",
        )
