"""Identities: who a participant is to a recruitment service, and the key that hides it.

The study's own file holds only a keyed hash (HMAC-SHA256) of the service's id. The key comes from
the environment or from a file of the user's, never from the study's folder: whoever gets hold of
the data can't tell who anybody is.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from saif.errors import InputError, StudyError
from saif.study.store.database import Database

KEY_VARIABLE = "SAIF_STUDY_KEY"
MIN_KEY_BYTES = 32

SECRET_VARIABLE = "SAIF_STUDY_SECRET"
MIN_SECRET_CHARACTERS = 16

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


def on_a_space(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this runs on a Hugging Face Space, whose disk is wiped at every restart."""
    return "SPACE_ID" in env


def key_file(study_id: str) -> Path:
    """Where the key of a study is kept for who set none. `SAIF_HOME` overrides the user's folder of
    settings."""
    home = os.environ.get("SAIF_HOME") or platformdirs.user_config_dir("saif")
    return Path(home) / "study-keys" / f"{study_id}.key"


def make_key(study_id: str) -> Path | None:
    """Make a key for a study that has none yet; its file. None where the environment has the key,
    or has to."""
    if os.environ.get(KEY_VARIABLE) or on_a_space():
        return None
    path = key_file(study_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    return path


def key_of(study_id: str) -> bytes:
    """The key of a study: the environment's or, elsewhere than on a Space, that of its file.
    Raises StudyError where there is none."""
    if os.environ.get(KEY_VARIABLE) or on_a_space():
        return key_from_environment()
    path = key_file(study_id)
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise StudyError(
            f"The key of the study '{study_id}' is not on this machine: {path} can't be read.",
            hint=f"Copy it from where the study was published, or set {KEY_VARIABLE}.",
        ) from error
    if len(key) < MIN_KEY_BYTES:
        raise StudyError(f"{path} is no key: it is shorter than {MIN_KEY_BYTES} characters.")
    return key


def researcher_secret() -> str | None:
    """What the researcher logs in with; None where the researcher's page is to be off. Raises
    StudyError where it is too short to be a secret."""
    secret = os.environ.get(SECRET_VARIABLE, "")
    if secret and len(secret) < MIN_SECRET_CHARACTERS:
        raise StudyError(
            f"{SECRET_VARIABLE} must have at least {MIN_SECRET_CHARACTERS} characters.",
            hint="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )
    return secret or None


def keyed_hash(key: bytes | None, *parts: str) -> bytes:
    """HMAC-SHA256 of the parts; their ends are marked, so ("a", "bc") is not ("ab", "c"). Raises
    StudyError without a key."""
    if key is None:
        raise StudyError("The study was opened without its key, to look only.")
    message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
    return hmac.new(key, message, hashlib.sha256).digest()


def record_identity(database: Database, pid_hmac: bytes, person: Person, study: str) -> None:
    """Write down whose hash this is, unless it is known."""
    with database.transaction() as db:
        row = (pid_hmac, person.source, person.pid, study, person.session)
        db.execute("INSERT OR IGNORE INTO identity VALUES (?, ?, ?, ?, ?)", row)


def delete_all_identities(database: Database) -> None:
    with database.transaction() as db:
        db.execute("DELETE FROM identity")
    database.shred()


def delete_identity(database: Database, pid_hmac: bytes) -> None:
    with database.transaction() as db:
        db.execute("DELETE FROM identity WHERE pid_hmac = ?", (pid_hmac,))
    database.shred()
