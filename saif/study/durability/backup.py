"""Backups of a store, each read back once it is made, and restoring one."""

import sqlite3
from pathlib import Path

from saif.errors import StudyError
from saif.files import replace_file
from saif.study.design.publish import Version, write_version
from saif.study.store import audit
from saif.study.store.store import Store

_NAMES = ("study-*.db", "identities-*.db")
KEPT = 48
"""Older backups are deleted; at one an hour, this is two days."""


def backup(store: Store) -> Path:
    """Copy both files into `backups/`, also while participants vote, and read the copy back.

    The study's copy; that of the identities lies beside it. Raises StudyError where the copy is
    not sound: then older backups are kept.
    """
    stamp = store.now().replace(":", "").replace("+0000", "Z")
    folder = store.folder / "backups"
    copy = folder / f"study-{stamp}.db"
    store.identities.copy_to(folder / f"identities-{stamp}.db")
    store.database.copy_to(copy)
    _check(copy)
    for name in _NAMES:
        for old in sorted(folder.glob(name))[:-KEPT]:
            old.unlink()
    return copy


def backups(folder: Path) -> list[Path]:
    """The files of all backups of the store in `folder`, oldest first."""
    return [path for name in _NAMES for path in sorted((folder / "backups").glob(name))]


def restore(copy: Path, folder: Path) -> None:
    """Make a store of a backup, in a folder that has none yet, with the versions it was of.

    Raises StudyError where there is one, or the backup is not sound.
    """
    if (folder / "study.db").exists():
        raise StudyError(
            f"{folder} holds a store already.", hint="Move it away first; nothing is overwritten."
        )
    if not (copy.is_file() and copy.name.startswith("study-")):
        raise StudyError(
            f"{copy} is no backup.", hint="Give one of the files backups/study-….db of a study."
        )
    known = _check(copy)
    other = copy.with_name(copy.name.replace("study-", "identities-", 1))
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("identities.db", other), ("study.db", copy)):
        try:
            replace_file(folder / name, source.read_bytes())
        except OSError as error:
            raise StudyError(f"{source.name} can't be restored: {error}") from error
        (folder / name).chmod(0o600)
    for version in known:
        write_version(folder, version)


def _check(copy: Path) -> list[Version]:
    """The versions in a copy, if it is sound. Read-only, so a look leaves no file beside it."""
    try:
        db = sqlite3.connect(f"{copy.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise StudyError(f"{copy.name} can't be read: {error}.") from error
    try:
        db.row_factory = sqlite3.Row
        if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            raise StudyError(f"{copy.name} is damaged.")
        audit.verify(db)
        found = db.execute("SELECT config_json FROM study_version ORDER BY number")
        return [Version.model_validate_json(row["config_json"]) for row in found]
    except sqlite3.Error as error:
        raise StudyError(f"{copy.name} can't be read: {error}.") from error
    finally:
        db.close()
