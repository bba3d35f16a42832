"""Withdrawing, and deleting a study's data when they are due: left out of the analysis, or erased
down to the last byte.

An erased participant leaves a tombstone without content: a random id, the times of their steps in
the audit trail, and that they were erased. Votes can't be linked to a person or a text any more,
because the keyed hash of the person and the salt of the trail's hashes are gone, too.
"""

import secrets
from datetime import datetime, timedelta
from typing import Literal

from saif.errors import StudyError
from saif.study.durability.backup import backup, backups
from saif.study.store.identities import delete_all_identities, delete_identity
from saif.study.store.settings import PAUSED, PURGED, SHRED_DUE, change, setting
from saif.study.store.store import Store

Scope = Literal["analysis", "erase"]
"""Leave the data out of the analysis, or erase them."""

_PURGING = "purging"
_RETENTION = "retention"
"""The actor of what is deleted because it is due."""


def withdraw(store: Store, participant: str, scope: Scope, *, actor: str) -> None:
    """Withdraw a participant. actor: `participant`, or the researcher's name.

    With scope `erase`, this returns once no byte of what they typed or were told is in the store,
    its logs or its backups; backups from before are replaced by a new one. If it fails or is
    killed half way, opening the store or calling it again goes on. Raises StudyError where there
    is no such participant, or a file is in use for too long.
    """
    if scope == "analysis":
        with store.database.transaction() as db:
            who = store.by_id(db, participant)
            if who.status == "erased":
                raise StudyError("These data are erased already.")
            if who.status != "withdrawn":
                values = (who.id, store.now(), actor)
                db.execute("INSERT INTO withdrawal VALUES (?, 'analysis', ?, ?)", values)
                store.leave(db, who, "withdrawn")
        return
    with store.database.snapshot() as db:
        store.by_id(db, participant)
        row = db.execute(
            "SELECT pid_hmac FROM participant WHERE participant_id = ?", (participant,)
        ).fetchone()
    # First who they are: after the next step nobody could tell which identity was theirs.
    delete_identity(store.identities, row["pid_hmac"])
    erase_rows(store, participant, actor)
    finish_erasures(store)


def finish_erasures(store: Store) -> None:
    """Overwrite what erasures have deleted, if any is due; to be called when a store is opened."""
    with store.database.snapshot() as db:
        due = setting(db, SHRED_DUE)
    if not due:
        return
    store.database.shred()
    for old in backups(store.folder):
        old.unlink()
    backup(store)
    with store.database.transaction() as db:
        db.execute("DELETE FROM setting WHERE name = ?", (SHRED_DUE,))


def erase_rows(store: Store, participant: str, actor: str) -> None:
    """Delete all content in one transaction, and note that the bytes are to be overwritten, which
    `finish_erasures` does. Nothing where that was done before."""
    with store.database.transaction() as db:
        who = store.by_id(db, participant)
        if who.status == "erased":
            return
        own = "(SELECT trial_id FROM trial WHERE participant_id = ?)"
        db.execute("INSERT INTO erasing VALUES (?)", (who.id,))
        votes = db.execute(f"DELETE FROM vote WHERE trial_id IN {own}", (who.id,)).rowcount
        for table in ("response", "event", "trial"):  # turns and answers go with their trial
            db.execute(f"DELETE FROM {table} WHERE participant_id = ?", (who.id,))
        db.execute("DELETE FROM erasing")
        store.leave(db, who, "erased")
        db.execute(
            "UPDATE participant SET pid_hmac = ?, token_hash = ?, salt = NULL "
            "WHERE participant_id = ?",
            (secrets.token_bytes(32), secrets.token_bytes(32), who.id),
        )
        db.execute("INSERT INTO withdrawal VALUES (?, 'erase', ?, ?)", (who.id, store.now(), actor))
        db.execute(
            "INSERT INTO setting VALUES ('erased_votes', ?) "
            "ON CONFLICT(name) DO UPDATE SET value = value + excluded.value",
            (votes,),
        )
        change(db, SHRED_DUE, "yes")


def ends_at(store: Store) -> datetime | None:
    """When the data are due: so many days after the last vote, or after somebody last joined where
    there is none. None while there is nobody."""
    with store.database.snapshot() as db:
        last = db.execute(
            "SELECT COALESCE((SELECT MAX(server_at) FROM vote), MAX(created_at)) FROM participant"
        ).fetchone()[0]
    if last is None:
        return None
    return datetime.fromisoformat(last) + timedelta(days=store.study.retention_days)


def purge_if_due(store: Store, now: datetime) -> bool:
    """Delete everything if it is due by now, or was begun before; whether it was."""
    with store.database.snapshot() as db:
        done, begun = setting(db, PURGED), setting(db, _PURGING)
    end = ends_at(store)
    due = begun is not None or (end is not None and end <= now)
    if done or not due:
        return False
    purge(store)
    return True


def purge(store: Store) -> None:
    """Erase everybody, who they were and all backups, but for a tombstone: random ids, the times of
    the audit trail, and the study itself. If it is killed half way, calling it again goes on.
    Afterwards the store can't be opened any more, only looked at."""
    with store.database.transaction() as db:
        change(db, _PURGING, "yes")  # once votes are gone, nothing else would tell that it is due
        change(db, PAUSED, "yes")
        store.note(db, None, "purge", store.study.id, {}, actor=_RETENTION)
        names = [row[0] for row in db.execute("SELECT participant_id FROM participant")]
    delete_all_identities(store.identities)
    for name in names:
        erase_rows(store, name, _RETENTION)
    finish_erasures(store)
    for old in backups(store.folder):
        old.unlink()
    with store.database.transaction() as db:
        change(db, PURGED, store.now())
        store.note(db, None, "purged", store.study.id, {}, actor=_RETENTION)
