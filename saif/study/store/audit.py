"""What happened, in a chain of hashes: a row that is changed, taken out or put in breaks it.

A row holds no personal text, only a salted hash of it. The salt is the participant's and is thrown
away when they are erased, so the chain stays whole and says nothing about them any more.
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from saif.errors import StudyError

START = "0" * 64


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row: note it elsewhere, and rows cut off at the end are noticed, too."""

    seq: int
    sha: str


def append(
    db: sqlite3.Connection,
    *,
    at: str,
    actor: str,
    action: str,
    about: str,
    payload: Mapping[str, object],
    salt: bytes = b"",
) -> Head:
    """Add a row inside the caller's transaction. about: the id of what was acted on."""
    last = head(db)
    payload_sha = hash_of(payload, salt)
    seq = last.seq + 1
    sha = _sha(seq, at, actor, action, about, payload_sha, last.sha)
    row = (seq, at, actor, action, about, payload_sha, last.sha, sha)
    db.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    return Head(seq, sha)


def head(db: sqlite3.Connection) -> Head:
    row = db.execute("SELECT seq, sha FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(0, START) if row is None else Head(row["seq"], row["sha"])


def verify(db: sqlite3.Connection, *, since: Head | None = None) -> Head:
    """Walk the chain, and hold every vote against its row; the newest row. since: a head that was
    noted earlier. Raises StudyError naming the first row that is not as it was written."""
    last = Head(0, START)
    for row in db.execute("SELECT * FROM audit ORDER BY seq"):
        found = tuple(row)
        seq, prev_sha, sha = found[0], found[6], found[7]
        if seq != last.seq + 1 or prev_sha != last.sha or sha != _sha(*found[:7]):
            raise StudyError(f"The audit trail was tampered with at row {last.seq + 1}.")
        last = Head(seq, sha)
        if since and seq == since.seq and sha != since.sha:
            raise StudyError(f"The audit trail was rewritten up to row {seq}.")
    if since and last.seq < since.seq:
        raise StudyError(f"The audit trail was cut off after row {last.seq}.")
    _verify_votes(db)
    return last


def _verify_votes(db: sqlite3.Connection) -> None:
    """Every vote has one row in the trail, every row its vote, unless its participant is erased."""
    trail = {
        row["object"]: row["payload_sha"]
        for row in db.execute("SELECT object, payload_sha FROM audit WHERE action = 'vote'")
    }
    votes = db.execute(
        "SELECT vote.*, participant.salt FROM vote JOIN trial USING(trial_id) "
        "JOIN participant USING(participant_id)"
    )
    n = 0
    for row in votes:
        n += 1
        payload = {key: row[key] for key in row.keys() if key != "salt"}  # noqa: SIM118
        if trail.get(row["vote_id"]) != hash_of(payload, row["salt"]):
            raise StudyError(f"The vote {row['vote_id']} is not as it was cast.")
    erased = db.execute("SELECT value FROM setting WHERE name = 'erased_votes'").fetchone()
    if n + int(erased["value"] if erased else 0) != len(trail):
        raise StudyError("Votes that the audit trail knows of are gone.")


def hash_of(payload: Mapping[str, object], salt: bytes) -> str:
    """sha256 of the salt and the payload's canonical JSON."""
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(salt + text.encode()).hexdigest()


def _sha(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()
