"""Withdrawing: data are left out of the analysis, or erased down to the last byte.

An erased participant leaves a tombstone without content: a random id, the times of their steps in
the audit trail, and that they were erased. Votes can't be linked to a person or a text any more,
because the keyed hash of the person and the salt of the trail's hashes are gone, too.
"""

import secrets
from typing import Literal

from saif.errors import StudyError
from saif.study.durability.backup import backup, backups
from saif.study.store.identities import delete_identity
from saif.study.store.settings import SHRED_DUE, change, setting
from saif.study.store.store import Store

Scope = Literal["analysis", "erase"]
"""Leave the data out of the analysis, or erase them."""


def withdraw(store: Store, participant: str, scope: Scope, *, actor: str) -> None:
    """Withdraw a participant. actor: `participant`, or the researcher's name.

    With scope `erase`, this returns once no byte of what they typed or were told is in the store,
    its logs or its backups; backups from before are replaced by a new one. If it fails or is
    killed half way, opening the store or calling it again goes on. Raises StudyError where there
    is no such participant, or a file is in use for too long.
    """
    if scope == "analysis":
        _leave_out(store, participant, actor)
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


def _leave_out(store: Store, participant: str, actor: str) -> None:
    with store.database.transaction() as db:
        who = store.by_id(db, participant)
        if who.status == "erased":
            raise StudyError("These data are erased already.")
        if who.status == "withdrawn":
            return
        db.execute(
            "INSERT INTO withdrawal VALUES (?, 'analysis', ?, ?)", (who.id, store.now(), actor)
        )
        store.leave(db, who, "withdrawn")


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
