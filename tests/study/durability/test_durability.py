"""What the store acknowledged is on disk: through kills, crowds, faults and retries."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from made_up_participants import (
    Clock,
    answers,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    published,
    rows,
    walk,
)
from stored_votes import flow, votes

from saif.errors import StudyError
from saif.study.design.publish import canonical
from saif.study.durability.backup import backup, backups, restore
from saif.study.durability.erasure import finish_erasures, withdraw
from saif.study.participation.events import note_event
from saif.study.participation.steps import (
    Ballot,
    Saved,
    add_exchange,
    begin,
    call_off,
    finish,
    respond,
    vote,
)
from saif.study.store import audit
from saif.study.store.database import connect
from saif.study.store.store import Store
from saif.study.store.trials import Trial

ROOT = Path(__file__).parents[3]


def sound(store: Store) -> None:
    store.database.check()
    store.identities.check()
    with store.database.snapshot() as db:
        audit.verify(db)


# Killed


def killed_voter(folder: Path, version: Path, name: str, wait: float) -> list[list[str]]:
    """Run a voter, kill it without warning `wait` seconds after it opened the store; what it was
    told is saved."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "study")])
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/study/study_voter.py"), str(folder), str(version), name],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
    )
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        time.sleep(wait)
    finally:
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
    lines = (first + rest).splitlines(keepends=True)
    return [line.split() for line in lines if line.endswith("\n")]


def check_kills(folder: Path, kills: int) -> None:
    version = published()
    file = folder / "version.json"
    file.write_text(canonical(version), "utf-8")
    rng = random.Random(0)
    acknowledged: list[list[str]] = []
    for number in range(kills):
        # Sometimes a new participant, sometimes those who were interrupted.
        name = f"voter-{number // 2}"
        acknowledged += killed_voter(folder / "store", file, name, rng.uniform(0.0, 0.4))
        store = make_store(folder, version=version)
        sound(store)
        stored = [row[0] for row in rows(store, "SELECT vote_id FROM vote")]
        told = {line[1] for line in acknowledged if line[0] == "voted"}
        assert told <= set(stored)
        assert len(stored) == len(set(stored))
        doubled = rows(store, "SELECT trial_id FROM vote GROUP BY trial_id HAVING COUNT(*) > 1")
        assert doubled == []
    enrolled = {line[1] for line in acknowledged if line[0] == "enrolled"}
    finished = {line[1] for line in acknowledged if line[0] == "code"}
    status = dict(rows(store, "SELECT participant_id, status FROM participant"))
    assert enrolled <= set(status)
    assert {status[name] for name in finished} <= {"complete"}  # no code without the data
    assert len(told) > 3 * kills  # it was worth it
    assert finished


def test_a_kill_loses_no_acknowledged_vote_and_doubles_none(disk_path: Path) -> None:
    check_kills(disk_path, 12)


@pytest.mark.slow
def test_a_hundred_kills_lose_no_acknowledged_vote(disk_path: Path) -> None:
    check_kills(disk_path, 100)


# Crowds


def at_once(n: int, do: Callable[[int], Any]) -> list[Any]:
    """Call `do` in n threads that start together."""
    barrier = threading.Barrier(n)

    def one(number: int) -> Any:
        barrier.wait()
        return do(number)

    with ThreadPoolExecutor(n) as threads:
        return list(threads.map(one, range(n)))


def test_twenty_votes_at_once_on_one_trial_are_one_vote(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token = store.enrol(person(), share_text=False).token
    trial = made_ready(store, token)
    assert trial.vote_id is not None
    ballots = [Ballot(vote_id=trial.vote_id, choice="LR"[number % 2]) for number in range(20)]
    saved: list[Saved] = at_once(20, lambda number: vote(store, token, ballots[number]))
    assert len(rows(store, "SELECT * FROM vote")) == 1
    assert {(one.vote_id, one.revision) for one in saved} == {(trial.vote_id, 1)}
    assert Counter(one.repeated for one in saved) == {True: 19, False: 1}
    sound(store)


def test_fifty_who_join_at_once_get_fifty_places(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    at_once(50, lambda number: store.enrol(person(number), share_text=False))
    seeds = rows(store, "SELECT plan_seed FROM participant")
    assert len(set(seeds)) == 50
    cells = Counter(row[0] for row in rows(store, "SELECT cell FROM participant"))
    assert set(cells.values()) == {25}
    sound(store)


def test_one_person_who_joins_in_ten_tabs_at_once_is_one_participant(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    entries = at_once(10, lambda number: store.enrol(person(), share_text=False))
    assert len({entry.participant_id for entry in entries}) == 1
    assert len(rows(store, "SELECT * FROM participant")) == 1
    assert rows(store, "SELECT COUNT(*) FROM cell_pool WHERE state = 'held'") == [(1,)]


def test_no_more_join_at_once_than_the_study_has_places(tmp_path: Path) -> None:
    store = make_store(tmp_path, quota__complete=5)

    def join(number: int) -> bool:
        try:
            store.enrol(person(number), share_text=False)
        except StudyError as error:
            return "all the participants" not in str(error)
        return True

    assert sum(at_once(20, join)) == 5


# Faults


class Faulty(sqlite3.Connection):
    """Fails at a certain statement, as a disk would; `budget` statements go well before."""

    budget: int | None = None
    error = "disk I/O error"

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if Faulty.budget is not None and not sql.lstrip().startswith(("PRAGMA", "ROLLBACK")):
            Faulty.budget -= 1
            if Faulty.budget < 0:
                raise sqlite3.OperationalError(Faulty.error)
        return super().execute(sql, *args)


def faulty(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=5, isolation_level=None, factory=Faulty)


Step = Callable[[Store, str, Trial], object]

STEPS: dict[str, Step] = {
    "enrol": lambda store, token, trial: store.enrol(person("new"), share_text=True),
    "begin": lambda store, token, trial: begin(store, token),
    "vote": lambda store, token, trial: cast(store, token, trial),
    "respond": lambda store, token, trial: respond(store, token, "remarks", "none"),
    "call_off": lambda store, token, trial: call_off(store, token, trial.trial_id, "failed"),
}


def fault_after(budget: int, do: Callable[[], object]) -> StudyError | None:
    """Let `budget` of a step's statements go well; what it says of the one that does not."""
    Faulty.budget = budget
    try:
        do()
    except StudyError as error:
        return error
    finally:
        Faulty.budget = None
    return None


@pytest.mark.parametrize("step", STEPS)
def test_a_fault_at_any_statement_saves_nothing_and_says_so(tmp_path: Path, step: str) -> None:
    store = make_store(tmp_path, connect=faulty)
    token = store.enrol(person(), share_text=True).token
    trial = made_ready(store, token)
    if step == "begin":
        cast(store, token, trial)  # so that there is another to begin
    before = rows(store, "SELECT * FROM audit"), rows(store, "SELECT * FROM trial")
    budget = 0
    do = partial(STEPS[step], store, token, trial)
    while (fault := fault_after(budget, do)) is not None:
        assert "not saved: disk I/O error" in str(fault)
        assert "try again" in fault.hint
        # With enrol, the identity's own file may be what failed: they are enrolled by then.
        if len(rows(store, "SELECT * FROM participant")) == 1:
            now = rows(store, "SELECT * FROM audit"), rows(store, "SELECT * FROM trial")
            assert now == before
        sound(store)
        budget += 1
        assert budget < 60
    assert budget >= 5  # each of the step's statements had its fault
    sound(store)
    assert len(rows(store, "SELECT * FROM audit")) > len(before[0])


def test_a_locked_store_says_that_the_vote_is_not_saved(tmp_path: Path) -> None:
    impatient = lambda path: sqlite3.connect(path, timeout=0.05, isolation_level=None)  # noqa: E731
    store = make_store(tmp_path, connect=impatient)
    token = store.enrol(person(), share_text=False).token
    trial = made_ready(store, token)
    blocker = connect(store.database.path)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StudyError, match="not saved: database is locked"):
        cast(store, token, trial)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert not cast(store, token, trial).repeated


def fill(store: Store, token: str) -> None:
    for _ in range(100):
        respond(store, token, "remarks", os.urandom(450).hex())


def test_a_full_disk_says_that_the_vote_is_not_saved(tmp_path: Path) -> None:
    full = [False]

    def small(path: Path) -> sqlite3.Connection:
        db = connect(path)
        if full[0]:
            db.execute("PRAGMA max_page_count = 1")  # no less than it has: no new page
        return db

    store = make_store(tmp_path, connect=small)
    token = store.enrol(person(), share_text=False).token
    trial = made_ready(store, token)
    full[0] = True
    with pytest.raises(StudyError, match="not saved: database or disk is full"):
        fill(store, token)
    full[0] = False
    assert not cast(store, token, trial).repeated
    sound(store)


def change_and_raise(store: Store, error: type[BaseException]) -> None:
    with store.database.transaction() as db:
        db.execute("UPDATE participant SET status = 'stale'")
        raise error


def test_what_was_written_before_an_error_is_undone(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    before = rows(store, "SELECT * FROM participant")
    for error in (ValueError, KeyboardInterrupt, sqlite3.IntegrityError):
        with pytest.raises(error):
            change_and_raise(store, error)
        assert rows(store, "SELECT * FROM participant") == before


def test_a_reference_to_nothing_is_noticed(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    db = connect(store.database.path)
    db.execute("UPDATE consent SET participant_id = 'nobody'")  # where keys are not enforced
    db.close()
    with pytest.raises(StudyError, match="references to rows that are not there"):
        store.database.check()


def test_a_damaged_store_is_noticed(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    store.close()
    content = bytearray(store.database.path.read_bytes())
    assert len(content) > 8 * 4096
    for page in range(4, 8):
        content[page * 4096 : page * 4096 + 400] = os.urandom(400)
    store.database.path.write_bytes(content)
    with pytest.raises(StudyError):
        store.database.check()


# Erased


def canaries(folder: Path, text: str) -> list[str]:
    """The files below a folder that hold the text in any of the usual encodings."""
    forms = [text.encode("utf-8"), text.encode("utf-16-le"), text.encode("utf-16-be")]
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(form in path.read_bytes() for form in forms)
    ]


def write_canaries(store: Store, who: str) -> tuple[str, str]:
    """A participant who leaves `CANARY-…` wherever anything can be typed; their id and receipt."""
    entry = store.enrol(person(f"CANARY-{who}"), share_text=True)
    trial = begin(store, entry.token)
    assert trial is not None
    call_off(store, entry.token, trial.trial_id, "reported", f"CANARY-{who}-report")
    while (trial := begin(store, entry.token)) is not None:
        if trial.state == "running":
            told = answers(trial, f"CANARY-{who}-answer")
            said = f"CANARY-{who}-prompt " * 300  # more than a page of the file
            trial = add_exchange(store, entry.token, trial.trial_id, told, said)
        cast(store, entry.token, trial, "L", reason=f"CANARY-{who}-reason")
    assert note_event(store, entry.token, "shown")
    respond(store, entry.token, "remarks", f"CANARY-{who}-remark")
    respond(store, entry.token, "remarks", f"CANARY-{who}-second-remark")
    finish(store, entry.token)
    return entry.participant_id, entry.receipt


def chatting(tmp_path: Path, clock: Clock | None = None) -> Store:
    return make_store(tmp_path, clock, prompts={"kind": "free", "task": "Chat."})


def test_erasing_leaves_no_byte_of_a_participant(tmp_path: Path) -> None:
    clock = Clock()
    store = chatting(tmp_path, clock)
    gone, receipt = write_canaries(store, "gone")
    stays, _ = write_canaries(store, "stays")
    backup(store)
    clock.pass_by(hours=1)  # so that the next backup has another name
    keeper = sqlite3.connect(store.database.path)  # keeps a write-ahead log in being
    keeper.execute("SELECT COUNT(*) FROM vote").fetchone()
    assert len(canaries(store.folder, "CANARY-gone")) >= 3  # store, identities, backups
    with store.database.snapshot() as db:
        head = audit.verify(db)

    assert store.of_receipt(receipt) == gone
    withdraw(store, gone, "erase", actor="participant")

    assert canaries(store.folder, "CANARY-gone") == []
    assert canaries(store.folder, "CANARY-stays")
    sound(store)
    with store.database.snapshot() as db:
        audit.verify(db, since=head)
    for table in ("vote JOIN trial USING(trial_id)", "trial", "response", "event"):
        assert rows(store, f"SELECT * FROM {table} WHERE participant_id = ?", gone) == []
    assert rows(store, "SELECT status, salt FROM participant WHERE participant_id = ?", gone) == [
        ("erased", None)
    ]
    assert {one.participant for one in votes(store)} == {stays}
    assert store.enter(person("CANARY-gone")) is None
    assert rows(store, "SELECT scope, actor FROM withdrawal") == [("erase", "participant")]
    assert [copy.name.split("-")[0] for copy in backups(store.folder)] == ["study", "identities"]
    withdraw(store, gone, "erase", actor="participant")  # once more changes nothing
    sound(store)
    keeper.close()


def test_an_erasure_that_was_killed_half_way_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = chatting(tmp_path)
    gone, _ = write_canaries(store, "gone")
    backup(store)

    def killed() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "shred", killed)
        with pytest.raises(KeyboardInterrupt):
            withdraw(store, gone, "erase", actor="participant")
    assert canaries(store.folder, "CANARY-gone")
    finish_erasures(make_store(tmp_path, version=store.version))
    assert canaries(store.folder, "CANARY-gone") == []
    sound(store)


def test_an_erasure_fails_loudly_while_someone_reads(tmp_path: Path) -> None:
    impatient = lambda path: sqlite3.connect(path, timeout=0.05, isolation_level=None)  # noqa: E731
    store = make_store(tmp_path, connect=impatient)
    name = complete(store)
    reader = connect(store.database.path)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM response").fetchone()
    with pytest.raises(StudyError, match=r"in use|locked"):
        withdraw(store, name, "erase", actor="participant")
    reader.close()
    finish_erasures(store)
    assert canaries(store.folder, "a remark of") == []


def test_withdrawing_from_the_analysis_keeps_the_rows_and_frees_the_place(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    names = [complete(store, number) for number in range(3)]
    withdraw(store, names[1], "analysis", actor="participant")
    withdraw(store, names[1], "analysis", actor="participant")
    assert {one.participant for one in votes(store)} == {names[0], names[2]}
    assert len(rows(store, "SELECT * FROM vote")) == 15
    assert flow(store)["withdrawn"] == 1
    assert rows(store, "SELECT COUNT(*) FROM cell_pool WHERE state = 'done'") == [(2,)]
    withdraw(store, names[1], "erase", actor="researcher")
    assert len(rows(store, "SELECT * FROM vote")) == 10
    with pytest.raises(StudyError, match="erased already"):
        withdraw(store, names[1], "analysis", actor="participant")
    with pytest.raises(StudyError, match="no participant"):
        withdraw(store, "nobody", "erase", actor="researcher")
    sound(store)


@pytest.mark.parametrize("receipt", ["", "x", "abc-def", "-", "é-ü"])
def test_a_receipt_that_was_not_made_here_is_refused(tmp_path: Path, receipt: str) -> None:
    store = make_store(tmp_path)
    own = store.enrol(person(), share_text=False).receipt
    assert store.of_receipt(f" {own}\n")
    with pytest.raises(StudyError, match="not known"):
        store.of_receipt(receipt)
    with pytest.raises(StudyError, match="not known"):
        store.of_receipt(own[:-1] + ("0" if own[-1] != "0" else "1"))


# Backed up


def test_a_backup_made_while_many_vote_is_whole_and_can_be_restored(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tokens = [store.enrol(person(number), share_text=False).token for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        walking = [threads.submit(walk, store, token) for token in tokens]
        copies = [backup(store) for _ in range(3)]
        for one in walking:
            one.result()
    copies.append(backup(store))
    restore(copies[-1], tmp_path / "restored" / "store")
    restored = make_store(tmp_path / "restored", version=store.version)
    sound(restored)
    assert votes(restored) == votes(store)
    assert restored.enter(person(3)) is not None
    with pytest.raises(StudyError, match="holds a store already"):
        restore(copies[0], restored.folder)


def test_a_damaged_backup_is_not_restored(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    copy = backup(store)
    content = bytearray(copy.read_bytes())
    content[4096 * 4 : 4096 * 8] = bytes(4096 * 4)
    copy.write_bytes(content)
    for file in (copy, tmp_path / "none.db"):
        with pytest.raises(StudyError, match=r"damaged|can't be read"):
            restore(file, tmp_path / "restored")
        assert not (tmp_path / "restored").exists()


def test_only_the_newest_backups_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saif.study.durability.backup.KEPT", 2)
    clock_store = make_store(tmp_path)
    names = []
    for _ in range(4):
        clock_store._clock.pass_by(hours=1)  # type: ignore[attr-defined]
        names.append(backup(clock_store).name)
    kept = [path.name for path in backups(clock_store.folder) if path.name.startswith("study")]
    assert kept == names[-2:]
    assert len(backups(clock_store.folder)) == 4
