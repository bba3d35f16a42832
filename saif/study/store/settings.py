"""Settings of a store as a whole: by name, so that a new one needs no new table."""

import hmac
import sqlite3

from saif.errors import StudyError
from saif.study.store.identities import KEY_VARIABLE, keyed_hash

COPIED = "copied"
"""The last row of the audit trail that the remote copy is known to hold."""

PAUSED = "paused"
PURGED = "purged"
SHRED_DUE = "shred_due"
TROUBLES = "troubles"


def setting(db: sqlite3.Connection, name: str) -> str | None:
    row = db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row["value"])


def change(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))


def is_paused(db: sqlite3.Connection) -> bool:
    return setting(db, PAUSED) == "yes"


def check_may_open(db: sqlite3.Connection, key: bytes, study_id: str) -> None:
    """Raises StudyError where the data were deleted when due, or were begun with another key, with
    which everybody who comes back would be taken for someone new."""
    if setting(db, PURGED):
        raise StudyError("The data of this study were deleted when they were due.")
    own = keyed_hash(key, "key", study_id).hex()
    db.execute("INSERT OR IGNORE INTO setting VALUES ('key', ?)", (own,))
    if not hmac.compare_digest(setting(db, "key") or "", own):
        raise StudyError(
            f"This is not the key that the study '{study_id}' was begun with.",
            hint=f"Set {KEY_VARIABLE} to that one, or put its file back.",
        )
