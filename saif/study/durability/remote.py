"""Remote copy of a study's store, for a machine whose disk does not last.

A snapshot is the whole store as one gzipped SQLite file. One is sent whenever something has been
written since the last; an erasure replaces all of them and their history by one. Recruitment ids
are never copied: who someone is lies with the service that sent them, and the keyed hash knows them
again when they come back.
"""

import gzip
import re
import sqlite3
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from saif.errors import StudyError
from saif.study.store import audit
from saif.study.store.database import Database
from saif.study.store.schema import MIGRATIONS
from saif.study.store.settings import COPIED, change, setting
from saif.study.store.store import Store

SNAPSHOTS_AT_MOST = 24
"""After so many, all but the newest are deleted."""

_NAME = re.compile(r"(?P<seq>\d{12})-(?P<sha>[0-9a-f]{16})-v(?P<schema>\d+)\.db\.gz")


class Place(Protocol):
    """Where snapshots lie. Every method raises OSError, in words, where it can't be done."""

    def names(self) -> list[str]:
        """The files there."""
        ...

    def read(self, name: str) -> bytes: ...

    def put(self, name: str, content: bytes) -> None:
        """Add a file, or write it again: it is there once this returns."""
        ...

    def replace_all(self, name: str, content: bytes) -> None:
        """Leave this file only, without a trace of any other."""
        ...


@dataclass(frozen=True, slots=True)
class _State:
    """How far a store has come: equal states are equal stores, but for how long places are held."""

    seq: int
    sha: str
    """The last row of the audit trail."""
    unaudited: tuple[object, ...]
    """What is written without a row there: messages, events, and votes that may be changed."""

    @property
    def file_name(self) -> str:
        return f"{self.seq:012d}-{self.sha[:16]}-v{len(MIGRATIONS)}.db.gz"


def _state_of(db: sqlite3.Connection) -> _State:
    unaudited = db.execute(
        "SELECT (SELECT MAX(turn_id) FROM turn), (SELECT MAX(id) FROM event), "
        "(SELECT GROUP_CONCAT(vote_id) FROM (SELECT vote_id FROM trial WHERE state = 'voted' "
        "AND vote_id NOT IN (SELECT vote_id FROM vote) ORDER BY vote_id))"
    ).fetchone()
    head = audit.head(db)
    return _State(head.seq, head.sha, tuple(unaudited))


class Copier:
    """Copies an open store to a place, one call at a time.

    After a start or a failure nobody knows what has arrived, nor whether an erasure was carried
    through, so the next snapshot replaces all others.
    """

    def __init__(self, store: Store, place: Place) -> None:
        self._store = store
        self._place = place
        self._sent: _State | None = None
        self._n_sent = 0

    def __call__(self) -> None:
        """Send a snapshot if anything was written since the last. Raises OSError while the place
        can't be reached, StudyError where it holds other data than this store."""
        there = _snapshots(self._place) if self._sent is None else []
        with self._store.database.snapshot() as db:
            for name in there[-1:]:
                _check_same_data(db, name)
            if _state_of(db) == self._sent:
                return
        sent, self._sent = self._sent, None  # until it is known to have arrived
        with closing(self._store.database.in_memory()) as copy:
            copy.row_factory = sqlite3.Row
            state, content = _state_of(copy), gzip.compress(copy.serialize(), 6)
            erased = "SELECT MAX(seq) FROM audit WHERE action = 'erased'"
            last_erased = copy.execute(erased).fetchone()[0] or 0
            alone = sent is None or self._n_sent >= SNAPSHOTS_AT_MOST or last_erased > sent.seq
        if alone:
            self._place.replace_all(state.file_name, content)
            if self._place.names() != [state.file_name]:
                raise OSError("The remote place still holds what was to be deleted there")
        else:
            self._place.put(state.file_name, content)
        with self._store.database.transaction() as db:
            change(db, COPIED, str(state.seq))
        self._sent = state
        self._n_sent = 1 if alone else self._n_sent + 1


def is_copied(db: sqlite3.Connection, participant: str) -> bool:
    """Whether all that a participant did up to their last entry in the audit trail was copied."""
    found = "SELECT 1 FROM audit WHERE seq > ? AND actor = ? LIMIT 1"
    return db.execute(found, (_copied(db), participant)).fetchone() is None


def n_uncopied(db: sqlite3.Connection) -> int:
    """How many participants have done something since the last copy."""
    n: int = db.execute(
        "SELECT COUNT(DISTINCT participant_id) FROM audit JOIN participant "
        "ON actor = participant_id WHERE seq > ?",
        (_copied(db),),
    ).fetchone()[0]
    return n


def _copied(db: sqlite3.Connection) -> int:
    return int(setting(db, COPIED) or 0)


def rebuild(folder: Path, study_id: str, place: Place) -> bool:
    """Make the store of a folder that has none from its copy; False where there is no copy.

    A snapshot that was torn off while it was written is left out: it had not been acknowledged.
    Raises StudyError where the copy is of another study, or damaged, or made by a newer saif;
    OSError where it can't be read.
    """
    if (folder / "study.db").exists():
        raise StudyError(f"{folder} holds a store already; it is not rebuilt.")
    names = _snapshots(place)
    if not names:
        return False
    for name in reversed(names):
        packed = place.read(name[0])
        try:
            if content := gzip.decompress(packed):  # what is torn off at once is empty
                break
        except (EOFError, OSError, zlib.error):  # torn off, or changed
            continue
    else:
        raise StudyError("None of the remote copy's files can be read.")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "remote-copy.db"
    for path in folder.glob(f"{draft.name}*"):  # of a rebuild that was killed
        path.unlink()
    draft.touch(mode=0o600)
    draft.write_bytes(content)
    database = Database(draft, MIGRATIONS)
    try:
        database.check()
        with database.snapshot() as db:
            audit.verify(db)
            other = db.execute("SELECT study_id FROM study_version LIMIT 1").fetchone()["study_id"]
        if other != study_id:
            raise StudyError(f"The remote copy is of the study '{other}'.")
    finally:
        database.close()
    draft.replace(folder / "study.db")
    return True


def _snapshots(place: Place) -> list[re.Match[str]]:
    """Their names, oldest first. Raises StudyError where a newer saif wrote the newest."""
    found = [name for name in map(_NAME.fullmatch, sorted(place.names())) if name]
    if found and int(found[-1]["schema"]) > len(MIGRATIONS):
        raise StudyError("The remote copy was made by a newer version of saif.")
    return found


def _check_same_data(db: sqlite3.Connection, name: re.Match[str]) -> None:
    """Raises StudyError where what the snapshot `name` holds last is not part of this trail."""
    row = db.execute("SELECT sha FROM audit WHERE seq = ?", (int(name["seq"]),)).fetchone()
    if row is None or not row["sha"].startswith(name["sha"]):
        raise StudyError(
            "The remote copy holds other data than this disk, or newer data.",
            hint="If another server is running, end one of them. If this disk holds an old backup, "
            "move it away: the store is rebuilt from the copy.",
        )
