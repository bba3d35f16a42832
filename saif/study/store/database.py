"""An SQLite file that keeps what it acknowledged: write-ahead log, flushed at every commit."""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from saif.errors import StudyError

_PRAGMAS = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA secure_delete = ON;
PRAGMA recursive_triggers = ON;
"""
"""FULL: a commit is on disk before it returns. secure_delete: what is deleted is overwritten.
recursive_triggers: INSERT OR REPLACE fires the triggers that forbid deleting, too."""

Connect = Callable[[Path], sqlite3.Connection]


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode; transactions are begun by hand."""
    return sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)


class NotSavedError(StudyError):
    """The disk or the database refuses; what was to be saved was not, and may be tried again."""


class Database:
    """One file. Every call has a connection of its own, so any thread or process may call. connect:
    how connections are made; tests put faults here."""

    def __init__(self, path: Path, migrations: Sequence[str], connect: Connect = connect) -> None:
        self.path = path
        self._connect = connect
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # nobody else's to read
        self._migrate(migrations)
        # Whoever closes the last connection copies the whole log into the file, at five times the
        # price of a commit. This one reads once, to join the log, and is there to be the last.
        self._kept_open = connect(path)
        self._kept_open.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()

    def close(self) -> None:
        """Fold the write-ahead log into the file; nothing is lost without it."""
        self._kept_open.close()

    def _migrate(self, migrations: Sequence[str]) -> None:
        with self.transaction() as db:
            done = db.execute("PRAGMA user_version").fetchone()[0]
            if done > len(migrations):
                raise StudyError(f"{self.path.name} was made by a newer version of saif.")
            for migration in migrations[done:]:
                for statement in _statements(migration):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(migrations)}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what the body writes is on disk when this ends, or undone if it raises.
        Only one at a time. Raises StudyError where nothing was saved, because the database is full,
        read-only, broken, or locked for more than five seconds."""
        with self._opened() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """One snapshot: what others write meanwhile is not seen. Raises StudyError as above."""
        with self._opened("The study's data can't be read") as db:
            db.execute("BEGIN")
            yield db

    @contextmanager
    def _opened(self, failed: str = "That was not saved") -> Iterator[sqlite3.Connection]:
        db = None
        try:
            db = self._connect(self.path)
            db.row_factory = sqlite3.Row
            for pragma in _statements(_PRAGMAS):
                db.execute(pragma)
            yield db
        except sqlite3.IntegrityError:
            raise  # a rule of the schema was broken: a bug, and nothing to try again
        except sqlite3.Error as error:
            hint = "Please try again in a moment."
            raise NotSavedError(f"{failed}: {error}.", hint=hint) from error
        finally:
            if db is not None:
                db.close()

    def shred(self) -> None:
        """Rewrite the file and empty the write-ahead log, so that deleted rows leave no byte.
        Raises StudyError where someone else is reading for too long."""
        with self._opened() as db:
            db.execute("VACUUM")
            if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                in_use = f"{self.path.name} is in use, so deleted rows are not overwritten yet."
                raise StudyError(in_use, hint="Please try again in a moment.")

    def check(self) -> None:
        """Raises StudyError unless the file is sound and all references hold."""
        with self.snapshot() as db:
            found = [row[0] for row in db.execute("PRAGMA integrity_check")]
            dangling = db.execute("PRAGMA foreign_key_check").fetchall()
        if found != ["ok"] or dangling:
            reason = found[0] if found != ["ok"] else "references to rows that are not there"
            raise StudyError(f"{self.path.name} is damaged: {reason}.")

    def in_memory(self) -> sqlite3.Connection:
        """A consistent copy in memory, also while others write, without a byte of deleted rows."""
        copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        with self._opened("The study's data can't be read") as db:
            db.backup(copy)
        copy.execute("VACUUM")
        return copy

    def copy_to(self, path: Path) -> None:
        """A consistent copy, also while others write. The file appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        with self._opened() as db:
            db.execute("VACUUM INTO ?", (str(draft),))
        draft.chmod(0o600)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)


def _statements(script: str) -> Iterator[str]:
    """One statement at a time: `executescript` would commit the transaction it stands in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
