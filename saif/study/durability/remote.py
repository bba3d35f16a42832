"""A copy of a study's data in a remote place, for a machine whose disk does not last.

What is new is added as a segment; see `saif.study.durability.segments`. An erasure replaces all of
them by one that is whole, and their history with them. Recruitment ids are never copied: who
someone is lies with the service that sent them, and the keyed hash knows them again when they come
back.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from saif.errors import StudyError
from saif.study.durability import segments
from saif.study.durability.segments import Head, Segment, TornError
from saif.study.store import audit, outbox
from saif.study.store.database import Database
from saif.study.store.outbox import Mark
from saif.study.store.schema import MIGRATIONS
from saif.study.store.store import Store

PARTS_AT_MOST = 200
"""After so many, everything is sent as one, so that a rebuild has few files to read."""


class Place(Protocol):
    """Where segments lie. Every method raises OSError, in words, where it can't be done."""

    def names(self) -> list[str]:
        """The files there, and nothing that isn't a segment."""
        ...

    def read(self, name: str) -> bytes: ...

    def put(self, name: str, content: bytes) -> None:
        """Add a file, or write it again: it is there once this returns."""
        ...

    def replace_all(self, name: str, content: bytes) -> None:
        """Leave this file only, without a trace of any other."""
        ...


class Copier:
    """Copies an open store to a place, one call at a time.

    After a start or a failure nobody knows what has arrived, nor whether an erasure was carried
    through, so everything is sent as one.
    """

    def __init__(self, store: Store, place: Place) -> None:
        self._store = store
        self._place = place
        self._last: Head | None = None
        self._n_parts = 0

    def __call__(self) -> None:
        """Send what is new. Raises OSError while the place can't be reached, StudyError where it
        holds other data than this store."""
        if self._last is None:
            self._begin()
        try:
            outbox.drain(self._store.database, self._pack, self._send, now=self._store.now())
        except OSError:
            self._last = None
            raise

    def _begin(self) -> None:
        there = _last_head(self._place)
        with self._store.database.transaction() as db:
            if there is not None:
                _check_same_data(db, self._store.study.id, there)
            outbox.put(db, "copy", None)  # so that there is something to send

    def _pack(self, db: sqlite3.Connection, marks: Sequence[Mark]) -> Segment:
        study, up_to = self._store.study.id, marks[-1].seq
        erased = any(mark.kind == outbox.ERASED for mark in marks)
        if self._last is None or erased or self._n_parts >= PARTS_AT_MOST:
            return segments.take(db, study, up_to)
        changed = [mark.participant for mark in marks if mark.participant is not None]
        return segments.take(
            db, study, up_to, participants=changed, trail_after=self._last.audit_seq
        )

    def _send(self, segment: Segment) -> None:
        head, content = segment.head, segments.write(segment)
        if head.whole:
            self._place.replace_all(head.name, content)
        else:
            self._place.put(head.name, content)
        self._last = head
        self._n_parts = 0 if head.whole else self._n_parts + 1


def rebuild(folder: Path, study_id: str, place: Place) -> bool:
    """Make the store of a folder that has none from its copy; False where there is no copy.

    What was torn off while it was written is left out: it had not been acknowledged. Raises
    StudyError where the copy is of another study, or damaged; OSError where it can't be read.
    """
    if (folder / "study.db").exists():
        raise StudyError(f"{folder} holds a store already; it is not rebuilt.")
    names = _in_order(place)
    if not names:
        return False
    found = segments.folded(_readable(place, names))
    if found is None:
        raise StudyError("None of the remote copy's files can be read.")
    if found.head.study != study_id:
        raise StudyError(f"The remote copy is of the study '{found.head.study}'.")
    draft = folder / "rebuilt.draft"
    for path in folder.glob(f"{draft.name}*"):  # of a rebuild that was killed
        path.unlink()
    database = Database(draft, MIGRATIONS)
    try:
        _fill(database, found)
        database.check()
        with database.reading() as db:
            audit.verify(db)
    finally:
        database.close()
    draft.replace(folder / "study.db")
    return True


def _fill(database: Database, found: Segment) -> None:
    with database.transaction() as db:
        columns = {
            table: {row["name"] for row in db.execute(f"PRAGMA table_info({table})")}
            for table in (*segments.SHARED, *segments.OWNED, "audit")
        }
        for table, row in segments.rows_of(found):
            if not row.keys() <= columns[table]:
                raise StudyError("The remote copy was made by a newer version of saif.")
            places = ", ".join("?" * len(row))
            db.execute(
                f"INSERT INTO {table}({', '.join(row)}) VALUES ({places})", tuple(row.values())
            )
        db.execute("DELETE FROM outbox")  # all of it is there already
        db.execute(
            "INSERT INTO outbox(seq, kind, acked_at) VALUES (?, 'rebuilt', 'before')",
            (found.head.up_to,),
        )


def _readable(place: Place, names: Sequence[str]) -> list[Segment]:
    """The segments that are not torn. A gap that this leaves in the trail is found when the trail
    is walked."""
    found = []
    for name in names:
        try:
            found.append(segments.read(place.read(name)))
        except TornError:
            continue
    return found


def _in_order(place: Place) -> list[str]:
    return sorted(name for name in place.names() if segments.NAME.fullmatch(name))


def _last_head(place: Place) -> Head | None:
    for name in reversed(_in_order(place)):
        try:
            return segments.read(place.read(name)).head
        except TornError:
            continue
    return None


def _check_same_data(db: sqlite3.Connection, study_id: str, last: Head) -> None:
    """Raises StudyError where what was copied last is not part of this store's trail."""
    row = db.execute("SELECT sha FROM audit WHERE seq = ?", (last.audit_seq,)).fetchone()
    if last.study != study_id or row is None or row["sha"] != last.audit_sha:
        raise StudyError(
            "The remote copy holds other data than this disk, or newer data.",
            hint="If another server is running, end one of them. If this disk holds an old backup, "
            "move it away: the store is rebuilt from the copy.",
        )
