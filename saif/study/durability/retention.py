"""When a study's data are due to be deleted, and deleting them.

What is left is a tombstone: random ids, the times of the audit trail, and the study itself.
"""

from datetime import datetime, timedelta

from saif.study.durability.backup import backups
from saif.study.durability.erasure import erase_rows, finish_erasures
from saif.study.store.identities import delete_all_identities
from saif.study.store.settings import PAUSED, PURGED, change, setting
from saif.study.store.store import Store

_BEGUN = "purging"

ACTOR = "retention"


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
        done, begun = setting(db, PURGED), setting(db, _BEGUN)
    end = ends_at(store)
    due = begun is not None or (end is not None and end <= now)
    if done or not due:
        return False
    purge(store)
    return True


def purge(store: Store) -> None:
    """Erase everybody, who they were and all backups. If it is killed half way, calling it again
    goes on. Afterwards the store can't be opened any more, only looked at."""
    with store.database.transaction() as db:
        change(db, _BEGUN, "yes")  # once votes are gone, nothing else would tell that it is due
        change(db, PAUSED, "yes")
        store.note(db, None, "purge", store.study.id, {}, actor=ACTOR)
        names = [row[0] for row in db.execute("SELECT participant_id FROM participant")]
    delete_all_identities(store.identities)
    for name in names:
        erase_rows(store, name, ACTOR)
    finish_erasures(store)
    for old in backups(store.folder):
        old.unlink()
    with store.database.transaction() as db:
        change(db, PURGED, store.now())
        store.note(db, None, "purged", store.study.id, {}, actor=ACTOR)
