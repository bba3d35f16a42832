"""The remote copy: whatever happens to the disk, the line or the process, nothing is lost, nothing
stands there twice, and what was erased is gone."""

import gzip
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_participants import (
    KEY,
    Clock,
    answers,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    rows,
)
from stored_votes import votes

from saif.errors import StudyError
from saif.study.analysis.estimates import estimate
from saif.study.durability.erasure import erase_rows, purge, withdraw
from saif.study.durability.housekeeping import Housekeeper
from saif.study.durability.remote import SNAPSHOTS_AT_MOST, Copier, is_copied, n_uncopied, rebuild
from saif.study.opening import REMOTE_VARIABLE, check_place
from saif.study.participation.events import note_event
from saif.study.participation.steps import add_exchange, begin, call_off, reopen, report
from saif.study.participation.votes import preference_scores
from saif.study.simulation.simulate import BotBehaviour, simulate
from saif.study.store import audit
from saif.study.store.schema import MIGRATIONS
from saif.study.store.store import Store

NOT_COMPARED = ("troubles", "shred_due", "copied")
"""Settings that are about one disk."""


class Shelf:
    """A place in memory. down: nothing works; loses_replies: what is put arrives, but nobody hears
    of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.down = False
        self.loses_replies = False
        self.read_names: list[str] = []
        self.replaced = 0
        self.sent = 0

    def _works(self) -> None:
        if self.down:
            raise OSError("the hub can't be reached")

    def names(self) -> list[str]:
        self._works()
        return list(self.files)

    def read(self, name: str) -> bytes:
        self._works()
        self.read_names.append(name)
        return self.files[name]

    def put(self, name: str, content: bytes) -> None:
        self._works()
        self.sent += 1
        self.files[name] = content
        if self.loses_replies:
            raise OSError("the hub can't be reached")

    def replace_all(self, name: str, content: bytes) -> None:
        self._works()
        self.replaced += 1
        self.sent += 1
        self.files = {name: content}
        if self.loses_replies:
            raise OSError("the hub can't be reached")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def contents(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """All that is copied, row by row."""
    tables = [row[0] for row in rows(store, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {table: sorted(rows(store, f"SELECT * FROM {table}"), key=repr) for table in tables}
    found["setting"] = [row for row in found["setting"] if row[0] not in NOT_COMPARED]
    assert found.pop("erasing") == []  # only ever full within a transaction
    return found


def unpacked(content: bytes) -> bytes:
    return gzip.decompress(content)


def holds(shelf: Shelf, text: bytes) -> bool:
    return any(text in unpacked(content) for content in shelf.files.values())


def rebuilt(shelf: Shelf, folder: Path, store: Store) -> Store:
    """What the copy gives on a new disk."""
    assert rebuild(folder, store.study.id, shelf)
    return Store(folder, store.version, KEY, clock=Clock())


def busy(store: Store) -> None:
    """Everything a participant can do that is stored."""
    token = store.enrol(person("busy"), share_text=True).token
    trial = begin(store, token)
    assert trial is not None
    note_event(store, token, "shown", t_client_ms=1.5, trial_id=trial.trial_id)
    call_off(store, token, trial.trial_id, "reported", "rüde \u2028 „Text“\n")
    trial = made_ready(store, token)
    cast(store, token, trial, "L", reason="because")
    reopen(store, token, trial.trial_id)
    trial = made_ready(store, token)
    report(store, token, trial.trial_id, "no more")
    withdraw(store, complete(store, "withdraws"), "analysis", actor="participant")
    withdraw(store, complete(store, "erased"), "erase", actor="participant")
    store.set_paused(True, actor="researcher")
    store.set_paused(False, actor="researcher")


def test_a_store_rebuilt_from_its_copy_is_the_same_in_every_table(
    tmp_path: Path, shelf: Shelf
) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    for number in range(5):
        complete(store, number)
        copier()
    busy(store)
    copier()
    again = rebuilt(shelf, tmp_path / "new", store)
    assert contents(again) == contents(store)
    assert all(contents(store).values())
    again.database.check()
    with again.database.snapshot() as db:
        audit.verify(db)
    assert (again.database.path.stat().st_mode & 0o077) == 0


def test_a_played_study_gives_the_same_statistics_after_a_rebuild(
    tmp_path: Path, shelf: Shelf
) -> None:
    store = make_store(tmp_path, trials__main=4)
    copier = Copier(store, shelf)
    for seed in range(4):
        simulate(store, 3, BotBehaviour(failing=0.1, returning=0.1), seed=seed)
        copier()
    again = rebuilt(shelf, tmp_path / "new", store)
    assert votes(again) == votes(store)
    assert estimate(preference_scores(votes(again), "steered")) == estimate(
        preference_scores(votes(store), "steered")
    )
    newest = max(shelf.files)
    simulate(again, 3, BotBehaviour(), seed=9)  # and goes on
    Copier(again, shelf)()
    assert max(shelf.files) > newest
    third = rebuilt(shelf, tmp_path / "third", again)
    assert contents(third) == contents(again)


def test_someone_goes_on_after_the_disk_was_wiped(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    entry = store.enrol(person(), share_text=True)
    cast(store, entry.token, made_ready(store, entry.token))
    Copier(store, shelf)()
    again = rebuilt(shelf, tmp_path / "new", store)
    found = again.enter(person())
    assert found is not None
    assert (found.participant_id, found.receipt) == (entry.participant_id, entry.receipt)
    trial = begin(again, found.token)
    assert trial is not None
    assert trial.position == 2


def test_a_snapshot_is_sent_only_when_something_was_written(tmp_path: Path, shelf: Shelf) -> None:
    """Also what leaves no trace in the audit trail."""
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    token = store.enrol(person(), share_text=True).token
    trial = begin(store, token)
    assert trial is not None
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: note_event(store, token, "shown"),
        lambda: add_exchange(store, token, trial.trial_id, answers(trial)),
        lambda: cast(store, token, trial),
        lambda: reopen(store, token, trial.trial_id),
        lambda: reopen(store, token, trial.trial_id),
    ]
    for step in steps:
        step()
        copier()
        assert contents(rebuilt(shelf, tmp_path / f"new-{shelf.sent}", store)) == contents(store)
        sent = shelf.sent
        copier()
        assert shelf.sent == sent  # nothing was new
    assert sent == len(steps)


def test_who_is_copied_is_known_for_each_participant(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)

    def copied(name: str) -> bool:
        with store.database.snapshot() as db:
            return is_copied(db, name)

    first = complete(store, 1)
    assert not copied(first)
    copier()
    second = complete(store, 2)
    assert (copied(first), copied(second)) == (True, False)
    with store.database.snapshot() as db:
        assert n_uncopied(db) == 1
    withdraw(store, first, "analysis", actor="participant")
    assert not copied(first)
    copier()
    assert copied(first)
    assert copied(second)


def test_while_the_remote_side_is_down_nothing_is_lost_and_no_code_given(
    tmp_path: Path, shelf: Shelf
) -> None:
    store, clock = make_store(tmp_path), Clock()
    keeper = Housekeeper(store, Copier(store, shelf), clock=clock)
    names = []
    for minute in range(30):
        shelf.down = 3 <= minute < 27
        names.append(complete(store, minute))
        keeper.tick()
        assert keeper.is_safe_to_finish(names[-1]) != shelf.down
        clock.pass_by(minutes=1)
    assert all(map(keeper.is_safe_to_finish, names))
    assert contents(rebuilt(shelf, tmp_path / "new", store)) == contents(store)


def test_a_lost_reply_doubles_nothing(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    complete(store, 0)
    copier()
    name = complete(store, 1)
    shelf.loses_replies = True
    with pytest.raises(OSError, match="reached"):
        copier()
    with store.database.snapshot() as db:
        assert not is_copied(db, name)
    complete(store, 2)
    shelf.loses_replies = False
    replaced = shelf.replaced
    copier()
    assert shelf.replaced == replaced + 1  # nobody knows what had arrived
    with store.database.snapshot() as db:
        assert is_copied(db, name)
    assert contents(rebuilt(shelf, tmp_path / "new", store)) == contents(store)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_torn_off_snapshot_is_left_out(tmp_path: Path, shelf: Shelf, kept: float) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    complete(store, 0)
    copier()
    before = contents(store)
    complete(store, 1)
    copier()
    last = max(shelf.files)
    torn = shelf.files[last][: int(len(shelf.files[last]) * kept)]
    shelf.files[last] = torn
    assert contents(rebuilt(shelf, tmp_path / "new", store)) == before
    # Where the disk is still there, what was torn is sent again.
    Copier(store, shelf)()
    assert contents(rebuilt(shelf, tmp_path / "third", store)) == contents(store)


def test_a_snapshot_that_was_changed_is_not_believed(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    complete(store)
    Copier(store, shelf)()
    ((name, content),) = shelf.files.items()
    (tmp_path / "changed.db").write_bytes(unpacked(content))
    db = sqlite3.connect(tmp_path / "changed.db")
    db.execute("DROP TRIGGER vote_is_never_changed")
    db.execute("UPDATE vote SET choice = 'R' WHERE choice = 'L'")
    db.commit()
    db.close()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 1
    for found, told in (
        (gzip.compress((tmp_path / "changed.db").read_bytes()), "is not as it was cast"),
        (bytes(damaged), "None of the remote copy's files"),
        (gzip.compress(b"no database"), "file is not a database"),
    ):
        shelf.files[name] = found
        with pytest.raises(StudyError, match=told):
            rebuild(tmp_path / "new", store.study.id, shelf)
        assert not (tmp_path / "new" / "study.db").exists()


def test_a_copy_of_a_newer_saif_is_neither_read_nor_overwritten(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("saif.study.durability.remote.MIGRATIONS", (*MIGRATIONS, ""))
        Copier(store, shelf)()
    before = dict(shelf.files)
    for step in (Copier(store, shelf), lambda: rebuild(tmp_path / "new", store.study.id, shelf)):
        with pytest.raises(StudyError, match="newer version"):
            step()
    assert shelf.files == before


def test_what_was_erased_is_gone_from_the_copy(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path, prompts={"kind": "free", "task": "Chat."})
    copier = Copier(store, shelf)
    token = store.enrol(person("CANARY"), share_text=True).token
    trial = begin(store, token)
    assert trial is not None
    add_exchange(store, token, trial.trial_id, answers(trial, "CANARY-answer"), "CANARY-prompt")
    cast(store, token, trial, reason="CANARY-reason")
    copier()
    stays = complete_chat(store, "stays")
    copier()
    assert holds(shelf, b"CANARY")
    assert not holds(shelf, b"person-CANARY")
    withdraw(store, trial.participant_id, "erase", actor="participant")
    replaced = shelf.replaced
    copier()
    assert shelf.replaced == replaced + 1
    assert not holds(shelf, b"CANARY")
    again = rebuilt(shelf, tmp_path / "new", store)
    assert contents(again) == contents(store)
    assert {vote.participant for vote in votes(again)} == {stays}
    with again.database.snapshot() as db:
        audit.verify(db)


def test_when_the_data_are_due_the_copy_is_emptied_too(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    complete(store, "CANARY")
    copier = Copier(store, shelf)
    copier()
    assert holds(shelf, b"remark of CANARY")
    purge(store)
    copier()
    assert not holds(shelf, b"CANARY")
    with pytest.raises(StudyError, match="deleted when they were due"):
        rebuilt(shelf, tmp_path / "new", store)


def complete_chat(store: Store, number: str) -> str:
    entry = store.enrol(person(number), share_text=True)
    for _ in range(2):
        trial = begin(store, entry.token)
        assert trial is not None
        add_exchange(store, entry.token, trial.trial_id, answers(trial), f"Hello from {number}.")
        cast(store, entry.token, trial)
    return entry.participant_id


def test_an_erasure_that_may_not_have_arrived_is_carried_through_at_the_next_start(
    tmp_path: Path, shelf: Shelf
) -> None:
    """The history may be left though the segments were replaced; only the place would know."""
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    name = complete(store)
    copier()
    withdraw(store, name, "erase", actor="participant")
    shelf.loses_replies = True
    with pytest.raises(OSError, match="reached"):
        copier()
    shelf.loses_replies = False
    again = rebuilt(shelf, tmp_path / "new", store)  # the disk was wiped meanwhile
    replaced = shelf.replaced
    Copier(again, shelf)()
    assert shelf.replaced == replaced + 1


def test_an_erasure_is_not_done_while_older_snapshots_are_left(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    name = complete(store)
    copier()
    withdraw(store, name, "erase", actor="participant")
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "replace_all", shelf.put)
        with pytest.raises(OSError, match="still holds"):
            copier()
    with store.database.snapshot() as db:
        assert not is_copied(db, name)
    copier()
    assert len(shelf.files) == 1
    with store.database.snapshot() as db:
        assert is_copied(db, name)


def test_what_was_deleted_but_not_yet_overwritten_is_not_copied(
    tmp_path: Path, shelf: Shelf
) -> None:
    store = make_store(tmp_path)
    name = complete(store, "CANARY")
    erase_rows(store, name, "participant")
    Copier(store, shelf)()
    assert not holds(shelf, b"CANARY")
    (tmp_path / "copy.db").write_bytes(unpacked(*shelf.files.values()))
    db = sqlite3.connect(tmp_path / "copy.db")
    assert db.execute("PRAGMA freelist_count").fetchone() == (0,)  # where deleted rows were
    db.close()


def test_many_snapshots_become_one(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SNAPSHOTS_AT_MOST >= 10
    monkeypatch.setattr("saif.study.durability.remote.SNAPSHOTS_AT_MOST", 3)
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    n_files = []
    for number in range(9):
        store.enrol(person(number), share_text=False)
        copier()
        n_files.append(len(shelf.files))
    assert n_files == [1, 2, 3, 1, 2, 3, 1, 2, 3]
    assert contents(rebuilt(shelf, tmp_path / "new", store)) == contents(store)


def other_data(tmp_path: Path, store: Store) -> Store:
    return make_store(tmp_path / "other", version=store.version)


def older_data(tmp_path: Path, store: Store) -> Store:
    folder = tmp_path / "older"
    store.database.copy_to(folder / "study.db")
    complete(store, "later")
    return Store(folder, store.version, KEY, clock=Clock())


@pytest.mark.parametrize("made", [other_data, older_data])
def test_a_copy_of_other_or_newer_data_is_never_overwritten(
    tmp_path: Path, shelf: Shelf, made: Callable[[Path, Store], Store]
) -> None:
    store = make_store(tmp_path)
    complete(store)
    other = made(tmp_path, store)
    Copier(store, shelf)()
    before = dict(shelf.files)
    complete(other, "other")
    for _ in range(2):
        with pytest.raises(StudyError, match="other data"):
            Copier(other, shelf)()
    assert shelf.files == before


def test_a_copy_of_another_study_is_not_unpacked(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    complete(store)
    Copier(store, shelf)()
    with pytest.raises(StudyError, match="is of the study"):
        rebuild(tmp_path / "new", "another", shelf)
    with pytest.raises(StudyError, match="holds a store already"):
        rebuild(store.folder, store.study.id, shelf)
    assert not rebuild(tmp_path / "empty", store.study.id, Shelf())


def test_a_copy_of_an_older_saif_is_brought_up_to_date(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    complete(store)
    Copier(store, shelf)()
    later = (*MIGRATIONS, "CREATE TABLE later(a);")
    monkeypatch.setattr("saif.study.durability.remote.MIGRATIONS", later)
    monkeypatch.setattr("saif.study.store.store.MIGRATIONS", later)
    assert rows(rebuilt(shelf, tmp_path / "new", store), "SELECT * FROM later") == []


# Where a study may run


def test_on_a_space_there_must_be_a_remote_place() -> None:
    check_place({})
    check_place({REMOTE_VARIABLE: "me/data"})
    check_place({"SPACE_ID": "me/space", REMOTE_VARIABLE: "me/data"})
    for env in ({"SPACE_ID": "me/space"}, {"SPACE_ID": "me/space", REMOTE_VARIABLE: ""}):
        with pytest.raises(StudyError, match="wiped at every restart") as caught:
            check_place(env)
        assert REMOTE_VARIABLE in caught.value.hint
    with pytest.raises(StudyError, match="ZeroGPU"):
        check_place({"SPACE_ID": "me/space", REMOTE_VARIABLE: "a/b", "SPACES_ZERO_GPU": "true"})
