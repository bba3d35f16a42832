"""What still has to be copied to a remote place, in the order in which it happened.

A row is put here in the transaction that makes it true, so a crash loses neither or both. Rows
are sent in order and marked when the remote side has them; one that is sent again after a crash
carries the same number, by which the remote side knows it.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saif.study.database import Database


@dataclass(frozen=True, slots=True)
class Parcel:
    """seq: its number, without gaps. payload: None once its participant was erased."""

    seq: int
    kind: str
    payload: dict[str, Any] | None


def put(
    db: sqlite3.Connection, kind: str, payload: Mapping[str, object], participant: str | None
) -> int:
    """Add a row inside the caller's transaction; its number. participant: whose data it holds."""
    row = db.execute(
        "INSERT INTO outbox(participant_id, kind, payload) VALUES (?, ?, ?)",
        (participant, kind, json.dumps(payload, ensure_ascii=False)),
    )
    assert row.lastrowid is not None
    return row.lastrowid


def drain(
    database: Database, send: Callable[[Sequence[Parcel]], None], *, now: str, batch: int = 100
) -> int:
    """Send what waits, a batch at a time, and mark what was sent; how much that was.

    `send` raises what it likes where the remote side is down: then nothing of its batch is marked,
    and the next call begins with it.
    """
    sent = 0
    while parcels := _waiting(database, batch):
        send(parcels)
        with database.transaction() as db:
            db.execute(
                "UPDATE outbox SET acked_at = ? WHERE seq BETWEEN ? AND ? AND acked_at IS NULL",
                (now, parcels[0].seq, parcels[-1].seq),
            )
        sent += len(parcels)
    return sent


def is_copied(db: sqlite3.Connection, participant: str) -> bool:
    """Whether all that is known of a participant has been copied."""
    row = db.execute(
        "SELECT 1 FROM outbox WHERE participant_id = ? AND acked_at IS NULL LIMIT 1", (participant,)
    ).fetchone()
    return row is None


def _waiting(database: Database, batch: int) -> list[Parcel]:
    with database.reading() as db:
        rows = db.execute(
            "SELECT seq, kind, payload FROM outbox WHERE acked_at IS NULL ORDER BY seq LIMIT ?",
            (batch,),
        ).fetchall()
    return [
        Parcel(row["seq"], row["kind"], json.loads(row["payload"]) if row["payload"] else None)
        for row in rows
    ]
