"""Who a participant is to a recruitment service: kept apart from everything they said.

The study's own file holds only a keyed hash (HMAC-SHA256) of the service's id. The key comes from
the environment and is in neither file.
"""

import hashlib
import hmac
import os
import re
from dataclasses import dataclass
from typing import Literal

from saif.errors import InputError, StudyError
from saif.study.store.database import Database

KEY_VARIABLE = "SAIF_STUDY_KEY"
MIN_KEY_BYTES = 32

Source = Literal["link", "prolific", "mturk", "lab", "bot"]

_IDS = {
    "prolific": re.compile(r"[0-9a-f]{24}"),
    "mturk": re.compile(r"A[A-Z0-9]{8,30}"),
}
_ANY_ID = re.compile(r"[A-Za-z0-9_-]{4,64}")


@dataclass(frozen=True, slots=True)
class Person:
    """A participant as a recruitment service names them. session: its name for this visit."""

    source: Source
    pid: str
    session: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("id", self.pid), ("session", self.session or "none")):
            wanted = _IDS.get(self.source, _ANY_ID) if name == "id" else _ANY_ID
            if not wanted.fullmatch(value):
                raise InputError(
                    f"The link lacks a valid participant {name}.",
                    hint="Please go back to where you found the study and open its link again.",
                )


def key_from_environment() -> bytes:
    """The key. Raises StudyError where it is not set, or too short to be one."""
    key = os.environ.get(KEY_VARIABLE, "").encode()
    if len(key) < MIN_KEY_BYTES:
        raise StudyError(
            f"{KEY_VARIABLE} must be set to a secret of at least {MIN_KEY_BYTES} characters.",
            hint="Make one with: python -c 'import secrets; print(secrets.token_hex(32))' "
            "and keep it; without it, participants can't come back.",
        )
    return key


def keyed_hash(key: bytes | None, *parts: str) -> bytes:
    """HMAC-SHA256 of the parts; their ends are marked, so ("a", "bc") is not ("ab", "c"). Raises
    StudyError without a key."""
    if key is None:
        raise StudyError("The study was opened without its key, to look only.")
    message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(key, message, hashlib.sha256).digest()


def remember(database: Database, pid_hmac: bytes, person: Person, study: str) -> None:
    """Note who a hash belongs to, if it is not known yet."""
    with database.transaction() as db:
        db.execute(
            "INSERT OR IGNORE INTO identity(pid_hmac, provider, pid, study, session) "
            "VALUES (?, ?, ?, ?, ?)",
            (pid_hmac, person.source, person.pid, study, person.session),
        )


def forget_everybody(database: Database) -> None:
    with database.transaction() as db:
        db.execute("DELETE FROM identity")
    database.shred()


def forget(database: Database, pid_hmac: bytes) -> None:
    with database.transaction() as db:
        db.execute("DELETE FROM identity WHERE pid_hmac = ?", (pid_hmac,))
    database.shred()
