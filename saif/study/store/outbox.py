"""Whose rows still have to be copied to a remote place, in the order in which they changed.

A mark is put here in the transaction that changes something, so a crash loses neither or both. It
says who changed and not how: the rows are read when they are sent, so many marks of one participant
are one copy, and nothing that was typed is kept twice.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from saif.study.store.database import Database

ERASED = "erased"
"""The kind of mark whose participant must disappear from what was copied before."""

Load = TypeVar("Load")


@dataclass(frozen=True, slots=True)
class Mark:
    """seq: its number, which only grows. participant: whose rows; None for those of the study."""

    seq: int
    kind: str
    participant: str | None


def put(db: sqlite3.Connection, kind: str, participant: str | None) -> None:
    """Add a mark inside the caller's transaction."""
    db.execute("INSERT INTO outbox(participant_id, kind) VALUES (?, ?)", (participant, kind))


def drain(
    database: Database,
    pack: Callable[[sqlite3.Connection, Sequence[Mark]], Load],
    send: Callable[[Load], None],
    *,
    now: str,
) -> int:
    """Pack all that waits, from one snapshot, send it, and note that it has arrived; how many marks
    that were.

    `send` raises what it likes where the remote side is down: then all of it still waits. What
    changes meanwhile waits for the next call.
    """
    with database.reading() as db:
        marks = waiting(db)
        if not marks:
            return 0
        load = pack(db, marks)
    send(load)
    with database.transaction() as db:
        acknowledge(db, marks[-1].seq, now)
    return len(marks)


def waiting(db: sqlite3.Connection) -> list[Mark]:
    rows = db.execute(
        "SELECT seq, kind, participant_id FROM outbox WHERE acked_at IS NULL ORDER BY seq"
    )
    return [Mark(*row) for row in rows]


def n_uncopied(db: sqlite3.Connection) -> int:
    """Of how many participants something has not been copied."""
    n: int = db.execute(
        "SELECT COUNT(DISTINCT participant_id) FROM outbox WHERE acked_at IS NULL"
    ).fetchone()[0]
    return n


def acknowledge(db: sqlite3.Connection, up_to: int, now: str) -> None:
    """Everything up to this number has been copied."""
    db.execute("UPDATE outbox SET acked_at = ? WHERE seq <= ? AND acked_at IS NULL", (now, up_to))


def is_copied(db: sqlite3.Connection, participant: str) -> bool:
    """Whether all that is known of a participant has been copied."""
    row = db.execute(
        "SELECT 1 FROM outbox WHERE participant_id = ? AND acked_at IS NULL LIMIT 1", (participant,)
    ).fetchone()
    return row is None
