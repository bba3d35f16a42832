"""The pool of cells: each place in a block is free, held by one participant, or done.

Works inside the caller's transaction, so that two who join at once can't get the same place. Who
drops out gives the place back, and the next to join gets the oldest free one: blocks fill up.
"""

import sqlite3

from saif.study.design.plan import block
from saif.study.design.study_file import Study

TABLE = """
CREATE TABLE cell_pool(
  version_id TEXT NOT NULL, block INTEGER NOT NULL, place INTEGER NOT NULL, cell TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('free', 'held', 'done')),
  participant_id TEXT UNIQUE, held_until TEXT,
  PRIMARY KEY(version_id, block, cell),
  CHECK((state = 'free') = (participant_id IS NULL)));
CREATE INDEX free_places ON cell_pool(version_id, block, place) WHERE state = 'free';
"""


def take(
    db: sqlite3.Connection, study: Study, version_id: str, participant: str, held_until: str
) -> tuple[int, str]:
    """Hold the oldest free place for a participant; its block and cell."""
    found = _oldest_free(db, version_id)
    if found is None:
        newest = db.execute(
            "SELECT COALESCE(MAX(block), 0) FROM cell_pool WHERE version_id = ?", (version_id,)
        ).fetchone()[0]
        db.executemany(
            "INSERT INTO cell_pool(version_id, block, place, cell, state) "
            "VALUES (?, ?, ?, ?, 'free')",
            [
                (version_id, newest + 1, place, cell)
                for place, cell in enumerate(block(study, newest + 1))
            ],
        )
        found = _oldest_free(db, version_id)
    assert found is not None, "a block holds at least one cell"
    db.execute(
        "UPDATE cell_pool SET state = 'held', participant_id = ?, held_until = ? "
        "WHERE version_id = ? AND block = ? AND cell = ?",
        (participant, held_until, version_id, *found),
    )
    return found


def _oldest_free(db: sqlite3.Connection, version_id: str) -> tuple[int, str] | None:
    row = db.execute(
        "SELECT block, cell FROM cell_pool WHERE version_id = ? AND state = 'free' "
        "ORDER BY block, place LIMIT 1",
        (version_id,),
    ).fetchone()
    return None if row is None else (row[0], row[1])


def hold(db: sqlite3.Connection, participant: str, until: str) -> None:
    """A sign of life: hold the place for longer."""
    db.execute(
        "UPDATE cell_pool SET held_until = ? WHERE participant_id = ? AND state = 'held'",
        (until, participant),
    )


def finish(db: sqlite3.Connection, participant: str) -> None:
    """The participant is complete; the place is used."""
    db.execute(
        "UPDATE cell_pool SET state = 'done', held_until = NULL WHERE participant_id = ?",
        (participant,),
    )


def give_back(db: sqlite3.Connection, participant: str) -> None:
    """The participant's data do not count; another may have the place. Nothing if there is none."""
    db.execute(
        "UPDATE cell_pool SET state = 'free', participant_id = NULL, held_until = NULL "
        "WHERE participant_id = ?",
        (participant,),
    )


def overdue(db: sqlite3.Connection, now: str) -> list[str]:
    """Participants who hold a place and gave no sign of life for too long."""
    rows = db.execute(
        "SELECT participant_id FROM cell_pool WHERE state = 'held' AND held_until < ? "
        "ORDER BY participant_id",
        (now,),
    )
    return [row[0] for row in rows]
