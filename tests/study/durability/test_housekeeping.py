"""The housekeeping of a running study: what is done when, and what happens when it fails."""

import json
import logging
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from made_up_participants import (
    KEY,
    Clock,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    published,
    rows,
)
from stored_votes import flow

from saif.errors import StudyError
from saif.study.data.monitoring import status
from saif.study.durability.backup import backups
from saif.study.durability.erasure import ends_at, erase_rows, purge
from saif.study.durability.housekeeping import Housekeeper
from saif.study.store import audit
from saif.study.store.settings import COPIED, change, setting
from saif.study.store.store import Store


class Remote:
    """Takes what waits, while it is up."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.up = True
        self.calls = 0
        self.called = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.called.set()
        if not self.up:
            raise OSError("the hub can't be reached")
        with self.store.database.transaction() as db:
            change(db, COPIED, str(audit.head(db).seq))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return make_store(tmp_path, clock)


def troubles(store: Store) -> dict[str, dict[str, str]]:
    with store.database.snapshot() as db:
        return dict(json.loads(setting(db, "troubles") or "{}"))


def test_places_of_who_is_gone_are_given_away_without_anybody_joining(
    store: Store, clock: Clock
) -> None:
    keeper = Housekeeper(store, clock=clock)
    store.enrol(person(), share_text=False)
    keeper.tick()
    clock.pass_by(minutes=121)
    keeper.tick()
    assert flow(store)["stale"] == 1


def test_a_backup_is_made_every_hour(store: Store, clock: Clock) -> None:
    keeper = Housekeeper(store, clock=clock)
    for minutes, n in ((0, 1), (30, 1), (29, 1), (1, 2), (60, 3)):
        clock.pass_by(minutes=minutes)
        keeper.tick()
        assert len(backups(store.folder)) == 2 * n


def test_an_erasure_that_was_cut_off_is_finished(store: Store, clock: Clock) -> None:
    name = complete(store)
    erase_rows(store, name, "participant")
    Housekeeper(store, clock=clock).tick()
    with store.database.snapshot() as db:
        assert setting(db, "shred_due") is None


def test_what_is_new_is_copied_every_minute_and_at_once_when_woken(
    store: Store, clock: Clock
) -> None:
    remote = Remote(store)
    keeper = Housekeeper(store, remote, clock=clock)
    name = complete(store)
    assert not keeper.is_safe_to_finish(name)
    keeper.tick()
    assert keeper.is_safe_to_finish(name)
    other = complete(store, "other")
    keeper.tick()
    assert (remote.calls, keeper.is_safe_to_finish(other)) == (1, False)
    keeper.wake()
    keeper.tick()
    assert (remote.calls, keeper.is_safe_to_finish(other)) == (2, True)
    clock.pass_by(seconds=61)
    keeper.tick()
    assert remote.calls == 3


def test_where_there_is_only_the_local_disk_it_is_always_safe_to_finish(store: Store) -> None:
    assert Housekeeper(store).is_safe_to_finish(complete(store))
    assert status(store).uncopied is None


def test_a_job_that_fails_is_told_tried_again_and_stops_no_other(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Remote(store)
    remote.up = False
    keeper = Housekeeper(store, remote, clock=clock)
    (store.folder / "backups").write_text("in the way")
    store.enrol(person(), share_text=False)
    since = store.now()
    with caplog.at_level(logging.ERROR):
        keeper.tick()
        clock.pass_by(minutes=1)
        keeper.tick()
    assert remote.calls == 2
    assert troubles(store)["copy"] == {"since": since, "problem": "the hub can't be reached"}
    assert [trouble["job"] for trouble in status(store).troubles] == ["backup", "copy"]
    assert status(store).uncopied == 1
    assert "the hub can't be reached" in caplog.text
    remote.up = True
    (store.folder / "backups").unlink()
    clock.pass_by(minutes=130)
    keeper.tick()
    assert troubles(store) == {}
    assert status(store).uncopied == 0
    assert flow(store)["stale"] == 1


def test_a_bug_is_told_by_its_place_and_not_by_what_it_was_about(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise KeyError("CANARY")

    keeper = Housekeeper(store, broken, clock=clock)
    with caplog.at_level(logging.DEBUG):
        keeper.tick()
    told = troubles(store)["copy"]["problem"]
    assert told.startswith("A bug: KeyError in test_housekeeping.py:")
    assert "CANARY" not in caplog.text + told


def test_a_store_that_can_not_be_written_ends_nothing(tmp_path: Path, clock: Clock) -> None:
    broken = False

    def connect(path: Path) -> sqlite3.Connection:
        if broken:
            raise sqlite3.OperationalError("disk I/O error")
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    store = make_store(tmp_path, clock, connect=connect)
    keeper = Housekeeper(store, clock=clock)
    broken = True
    keeper.tick()
    broken = False
    clock.pass_by(minutes=1)
    keeper.tick()
    assert troubles(store) == {}
    assert len(backups(store.folder)) == 2


def test_the_thread_copies_when_woken_and_once_more_when_stopped(store: Store) -> None:
    remote = Remote(store)
    with Housekeeper(store, remote) as keeper:
        assert remote.called.wait(5)
        name = complete(store)
        keeper.wake()
        for _ in range(500):
            if keeper.is_safe_to_finish(name):
                break
            time.sleep(0.01)
        assert keeper.is_safe_to_finish(name)
        last = complete(store, "last")
    assert keeper.is_safe_to_finish(last)
    assert "housekeeper" not in {thread.name for thread in threading.enumerate()}
    keeper.__exit__()


def test_troubles_of_an_earlier_run_are_forgotten(store: Store, clock: Clock) -> None:
    remote = Remote(store)
    remote.up = False
    Housekeeper(store, remote, clock=clock).tick()
    assert troubles(store)
    with Housekeeper(store):
        pass
    assert not troubles(store)


# Retention


def test_data_are_deleted_when_due_and_a_tombstone_is_left(store: Store, clock: Clock) -> None:
    keeper = Housekeeper(store, clock=clock)
    assert ends_at(store) is None
    store.enrol(person("PID-CANARY"), share_text=True)
    clock.pass_by(hours=1)
    token = store.enrol(person("PID-CANARY"), share_text=True).token
    cast(store, token, made_ready(store, token), reason="CANARY-reason")
    keeper.tick()
    clock.pass_by(days=364)
    keeper.tick()
    assert flow(store)["erased"] == 0
    clock.pass_by(days=2)
    keeper.tick()

    assert flow(store)["erased"] == 1
    assert backups(store.folder) == []
    assert rows(store, "SELECT COUNT(*) FROM vote") == [(0,)]
    for path in store.folder.rglob("*"):
        assert path.is_dir() or b"CANARY" not in path.read_bytes(), path
    with store.database.snapshot() as db:
        audit.verify(db)
    assert rows(store, "SELECT action FROM audit WHERE actor = 'retention' ORDER BY seq") == [
        ("purge",), ("purged",)
    ]  # fmt: skip
    with pytest.raises(StudyError, match="paused"):
        store.enrol(person("late"), share_text=False)
    with pytest.raises(StudyError, match="deleted when they were due"):
        Store(store.folder, store.version, KEY, clock=clock)
    looked = Store(store.folder, store.version, None, clock=clock)
    assert status(looked).purged_at == store.now()
    before = rows(store, "SELECT COUNT(*) FROM audit")
    clock.pass_by(days=1)
    keeper.tick()
    assert backups(store.folder) == []
    assert rows(store, "SELECT COUNT(*) FROM audit") == before


def test_a_deletion_that_was_cut_off_goes_on(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(store, "a")
    complete(store, "b")
    with monkeypatch.context() as patch:
        patch.setattr("saif.study.durability.erasure.finish_erasures", lambda store: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            purge(store)
    again = Store(store.folder, published(), KEY, clock=clock)
    Housekeeper(again, clock=clock).tick()
    with again.database.snapshot() as db:
        assert setting(db, "purged")
        assert setting(db, "shred_due") is None
