"""The remote copy: whatever happens to the disk, the line or the process, nothing is lost, nothing
stands there twice, and what was erased is gone."""

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
from saif.study.durability import segments
from saif.study.durability.erasure import withdraw
from saif.study.durability.housekeeping import Housekeeper
from saif.study.durability.location import REMOTE_VARIABLE, check_place
from saif.study.durability.remote import PARTS_AT_MOST, Copier, rebuild
from saif.study.durability.retention import purge
from saif.study.durability.segments import TornError
from saif.study.participation.ballots import reopen, report
from saif.study.participation.events import note_event
from saif.study.participation.steps import add_turn, begin, call_off
from saif.study.participation.votes import preference_scores
from saif.study.simulation.simulate import Crowd, simulate
from saif.study.store import audit, outbox
from saif.study.store.schema import MIGRATIONS
from saif.study.store.store import Store

COPIED = (*segments.SHARED, *segments.OWNED, "audit")


class Shelf:
    """A place in memory. down: nothing works; loses_replies: what is put arrives, but nobody hears
    of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.down = False
        self.loses_replies = False
        self.read_names: list[str] = []
        self.replaced = 0

    def _works(self) -> None:
        if self.down:
            raise OSError("the hub can't be reached")

    def names(self) -> list[str]:
        self._works()
        return [*self.files, "README.md"]

    def read(self, name: str) -> bytes:
        self._works()
        self.read_names.append(name)
        return self.files[name]

    def put(self, name: str, content: bytes) -> None:
        self._works()
        self.files[name] = content
        if self.loses_replies:
            raise OSError("the hub can't be reached")

    def replace_all(self, name: str, content: bytes) -> None:
        self._works()
        self.replaced += 1
        self.files = {name: content}
        if self.loses_replies:
            raise OSError("the hub can't be reached")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def contents(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """All that is copied, row by row."""
    found = {table: sorted(rows(store, f"SELECT * FROM {table}"), key=repr) for table in COPIED}
    found["setting"] = [row for row in found["setting"] if row[0] not in ("troubles", "shred_due")]
    return found


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
    with again.database.reading() as db:
        audit.verify(db)
        assert outbox.waiting(db) == []
    assert (again.database.path.stat().st_mode & 0o077) == 0


def test_a_played_study_gives_the_same_statistics_after_a_rebuild(
    tmp_path: Path, shelf: Shelf
) -> None:
    store = make_store(tmp_path, trials__main=4)
    copier = Copier(store, shelf)
    for seed in range(4):
        simulate(store, 3, Crowd(failing=0.1, returning=0.1), seed=seed)
        copier()
    again = rebuilt(shelf, tmp_path / "new", store)
    assert votes(again) == votes(store)
    assert estimate(preference_scores(votes(again), "steered")) == estimate(
        preference_scores(votes(store), "steered")
    )
    newest = max(shelf.files)
    simulate(again, 3, Crowd(), seed=9)  # and goes on
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


def test_only_what_changed_is_sent(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    complete(store, "old")
    copier()
    copier()
    assert len(shelf.files) == 1  # nothing was new
    name = complete(store, "new")
    copier()
    newest = segments.read(shelf.files[max(shelf.files)])
    assert list(newest.participants) == [name]
    assert not newest.head.whole
    seqs = [
        row["seq"] for name in sorted(shelf.files) for row in segments.read(shelf.files[name]).trail
    ]
    assert seqs == [row[0] for row in rows(store, "SELECT seq FROM audit ORDER BY seq")]


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
    covered = [segments.read(shelf.files[name]).head.up_to for name in sorted(shelf.files)]
    assert covered == sorted(set(covered))


def test_a_lost_reply_doubles_nothing(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    complete(store, 0)
    copier()
    name = complete(store, 1)
    shelf.loses_replies = True
    with pytest.raises(OSError, match="reached"):
        copier()
    with store.database.reading() as db:
        assert not outbox.is_copied(db, name)
    complete(store, 2)
    shelf.loses_replies = False
    copier()
    with store.database.reading() as db:
        assert outbox.is_copied(db, name)
    assert contents(rebuilt(shelf, tmp_path / "new", store)) == contents(store)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_segment_that_was_torn_off_is_left_out(tmp_path: Path, shelf: Shelf, kept: float) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    complete(store, 0)
    copier()
    before = contents(store)
    complete(store, 1)
    copier()
    last = max(shelf.files)
    torn = shelf.files[last][: int(len(shelf.files[last]) * kept)]
    with pytest.raises(TornError):
        segments.read(torn)
    shelf.files[last] = torn
    assert contents(rebuilt(shelf, tmp_path / "new", store)) == before
    # Where the disk is still there, what was torn is sent again.
    Copier(store, shelf)()
    assert contents(rebuilt(shelf, tmp_path / "third", store)) == contents(store)


def test_a_missing_segment_in_the_middle_is_noticed(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    for number in range(3):
        complete(store, number)
        copier()
    middle = sorted(shelf.files)[1]
    del shelf.files[middle]
    with pytest.raises(StudyError, match="audit trail was tampered with"):
        rebuild(tmp_path / "new", store.study.id, shelf)
    assert not (tmp_path / "new" / "study.db").exists()


def test_a_changed_segment_is_not_believed(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    complete(store)
    Copier(store, shelf)()
    ((name, content),) = shelf.files.items()
    shelf.files[name] = content.replace(b'"choice": "L"', b'"choice": "R"')
    assert shelf.files[name] != content
    with pytest.raises(StudyError, match="None of the remote copy's files"):
        rebuild(tmp_path / "new", store.study.id, shelf)


def test_a_copy_of_a_newer_saif_is_neither_read_nor_overwritten(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("saif.study.durability.segments.FORMAT", 2)
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
    add_turn(store, token, trial.trial_id, answers(trial, "CANARY-answer"), "CANARY-prompt")
    cast(store, token, trial, reason="CANARY-reason")
    copier()
    stays = complete_chat(store, "stays")
    copier()
    assert any(b"CANARY" in content for content in shelf.files.values())
    assert not any(b"person-CANARY" in content for content in shelf.files.values())
    withdraw(store, trial.participant_id, "erase", actor="participant")
    replaced = shelf.replaced
    copier()
    assert shelf.replaced == replaced + 1
    assert not any(b"CANARY" in content for content in shelf.files.values())
    again = rebuilt(shelf, tmp_path / "new", store)
    assert contents(again) == contents(store)
    assert {vote.participant for vote in votes(again)} == {stays}
    with again.database.reading() as db:
        audit.verify(db)


def test_when_the_data_are_due_the_copy_is_emptied_too(tmp_path: Path, shelf: Shelf) -> None:
    store = make_store(tmp_path)
    complete(store, "CANARY")
    copier = Copier(store, shelf)
    copier()
    assert any(b"remark of CANARY" in content for content in shelf.files.values())
    purge(store)
    copier()
    assert not any(b"CANARY" in content for content in shelf.files.values())
    with pytest.raises(StudyError, match="deleted when they were due"):
        rebuilt(shelf, tmp_path / "new", store)


def complete_chat(store: Store, number: str) -> str:
    entry = store.enrol(person(number), share_text=True)
    for _ in range(2):
        trial = begin(store, entry.token)
        assert trial is not None
        add_turn(store, entry.token, trial.trial_id, answers(trial), f"Hello from {number}.")
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


def test_many_parts_become_one(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PARTS_AT_MOST >= 10
    monkeypatch.setattr("saif.study.durability.remote.PARTS_AT_MOST", 3)
    store = make_store(tmp_path)
    copier = Copier(store, shelf)
    n_files = []
    for number in range(9):
        store.enrol(person(number), share_text=False)
        copier()
        n_files.append(len(shelf.files))
    assert n_files == [1, 2, 3, 4, 1, 2, 3, 4, 1]
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


def test_every_column_of_every_table_is_copied_or_known_not_to_be(tmp_path: Path) -> None:
    """A table that a later migration adds must be put into `segments`."""
    store = make_store(tmp_path)
    tables = {row[0] for row in rows(store, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert len(MIGRATIONS) == 2
    assert tables == {*COPIED, "outbox", "erasing"}


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
