"""A data set of the hub as the place of a study's copy: a real server that speaks its protocol."""

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, reachable_hub
from huggingface_hub.utils import get_session
from made_up_participants import Clock, complete, make_store
from stored_votes import votes

from saif.errors import StudyError
from saif.runtime.hub_dataset import HubDataset
from saif.study.design.publish import write_version
from saif.study.durability.erasure import withdraw
from saif.study.durability.remote import Copier, is_copied
from saif.study.opening import REMOTE_VARIABLE, open_to_serve
from saif.study.store.identities import KEY_VARIABLE

NAME = "datasets/me/data"
ONE, TWO, THREE = (f"{number:012d}-0123456789abcdef-v3.db.gz" for number in (1, 2, 3))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with reachable_hub(monkeypatch, tmp_path / "cache") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def ever_held(hub: HubServer, text: bytes) -> bool:
    """Whether a snapshot that is there, or in the history, holds this."""
    packed = [content for content in hub.history[NAME] if content.startswith(b"\x1f\x8b")]
    assert packed
    return any(text in gzip.decompress(content) for content in packed)


@pytest.fixture
def place(hub: HubServer) -> HubDataset:
    found = HubDataset("me/data")
    found.verify()
    return found


def test_the_data_set_is_made_private_and_tried_out(hub: HubServer, place: HubDataset) -> None:
    assert hub.private[NAME] is True
    assert set(hub.repositories[NAME]) == {"probe.txt"}
    assert place.names() == []
    place.verify()


def test_a_data_set_that_gives_back_something_else_is_refused(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HubDataset, "_read", lambda self, name: b"something else")
    with pytest.raises(OSError, match="does not give back"):
        HubDataset("me/data").verify()


def test_what_is_put_can_be_read_and_nothing_stays_on_this_disk(
    hub: HubServer, place: HubDataset, tmp_path: Path
) -> None:
    place.put(ONE, b"one")
    place.put(TWO, b"two")
    assert place.names() == [ONE, TWO]
    assert place.read(ONE) == b"one"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_is_sent_to_a_data_set_that_others_can_read(
    hub: HubServer, place: HubDataset
) -> None:
    place.put(ONE, b"one")
    hub.private[NAME] = False
    before = dict(hub.repositories[NAME])
    for step in (
        place.names,
        place.verify,
        lambda: place.put(TWO, b"two"),
        lambda: place.replace_all(TWO, b"two"),
    ):
        with pytest.raises(OSError, match="not private"):
            step()
    assert hub.repositories[NAME] == before


def test_replacing_all_leaves_nothing_in_the_history(hub: HubServer, place: HubDataset) -> None:
    place.put(ONE, b"CANARY")
    hub.large = [
        {"fileOid": file, "filename": f"snapshots/{TWO}", "oid": oid, "size": 1,
         "pushedAt": "2026-01-01T00:00:00.000Z"}
        for file, oid in (("a", "an older one"), ("b", hashlib.sha256(b"all").hexdigest()))
    ]  # fmt: skip
    assert b"CANARY" in hub.history[NAME]
    place.replace_all(TWO, b"all")
    assert place.names() == [TWO]
    assert b"CANARY" not in hub.history[NAME]
    assert [file["fileOid"] for file in hub.large] == ["b"]
    place.put(THREE, b"more")


def test_a_copy_of_saif_0_1_0_is_neither_read_nor_overwritten(
    hub: HubServer, place: HubDataset, tmp_path: Path
) -> None:
    hub.repositories[NAME]["segments/000000000001-whole.jsonl"] = b"{}"
    before = dict(hub.repositories[NAME])
    for step in (place.verify, place.names, Copier(make_store(tmp_path), place)):
        with pytest.raises(OSError, match=r"only saif 0\.1\.0 can read"):
            step()
    assert hub.repositories[NAME] == before


def test_two_servers_can_not_both_write(hub: HubServer, place: HubDataset) -> None:
    other = HubDataset("me/data")
    other.names()
    place.names()
    place.put(ONE, b"one")
    with pytest.raises(OSError, match="error \\(412\\)"):
        other.put(ONE, b"two")
    assert place.read(ONE) == b"one"


@pytest.mark.parametrize(
    ("trouble", "told"), [("down", "error \\(500\\)"), ("token", "doesn't allow|no such")]
)
def test_what_can_not_be_done_is_told_in_words(
    hub: HubServer, place: HubDataset, trouble: str, told: str
) -> None:
    place.put(ONE, b"one")
    if trouble == "down":
        hub.down = True
    else:
        hub.token = "hf_another"
    for step in (
        place.names,
        place.verify,
        lambda: place.read(ONE),
        lambda: place.put(TWO, b"two"),
    ):
        with pytest.raises(OSError, match=told):
            step()


def test_a_hub_that_never_answers_is_given_up(
    hub: HubServer, place: HubDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saif.runtime.hub_dataset._PATIENCE", 0.2)
    hub.released.clear()
    try:
        for step in (place.names, lambda: place.read(ONE)):
            with pytest.raises(OSError, match="can't be reached"):
                step()
    finally:
        hub.released.set()
    place.put(ONE, b"one")
    assert get_session().timeout.read == 0.2  # a commit tries again and again, so it isn't tried


def test_a_name_that_is_none_is_told(hub: HubServer) -> None:
    with pytest.raises(OSError, match="not a repository's name"):
        HubDataset("no name!").verify()


# A study whose copy lies there


@pytest.fixture
def on_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "me/space")
    monkeypatch.setenv(REMOTE_VARIABLE, "me/data")
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)


def published_to(folder: Path, tmp_path: Path) -> Path:
    store = make_store(tmp_path / "unused")
    write_version(folder, store.version)
    return folder


@pytest.mark.usefixtures("on_a_space")
def test_a_space_that_restarts_goes_on_from_its_copy(hub: HubServer, tmp_path: Path) -> None:
    store, copier = open_to_serve(published_to(tmp_path / "first", tmp_path))
    assert copier is not None
    gone, stays = complete(store, "gone"), complete(store, "stays")
    copier()
    withdraw(store, gone, "erase", actor="participant")
    copier()
    again, _ = open_to_serve(published_to(tmp_path / "second", tmp_path))
    assert votes(again) == votes(store)
    assert {vote.participant for vote in votes(again)} == {stays}
    assert not ever_held(hub, b"remark of gone")
    assert ever_held(hub, b"remark of stays")


@pytest.mark.usefixtures("on_a_space")
def test_a_study_is_not_served_without_its_copy(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = published_to(tmp_path / "served", tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StudyError, match="can't be used"):
        open_to_serve(folder)
    assert not (folder / "study.db").exists()
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.repositories[NAME], hub.private[NAME] = {}, False
    with pytest.raises(StudyError, match="not private"):
        open_to_serve(folder)
    monkeypatch.delenv(REMOTE_VARIABLE)
    with pytest.raises(StudyError, match="wiped at every restart"):
        open_to_serve(folder)


@pytest.mark.usefixtures("hub")
def test_at_home_nothing_is_copied_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (REMOTE_VARIABLE, "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEY_VARIABLE, "k" * 32)
    assert open_to_serve(published_to(tmp_path / "served", tmp_path))[1] is None


def test_a_commit_whose_reply_was_lost_is_followed_by_the_next(
    hub: HubServer, place: HubDataset, tmp_path: Path
) -> None:
    store = make_store(tmp_path, Clock())
    copier = Copier(store, place)
    copier()
    complete(store)
    hub.loses_replies = True
    with pytest.raises(OSError, match="error"):
        copier()
    hub.loses_replies = False
    copier()
    name = complete(store, "next")
    copier()
    with store.database.snapshot() as db:
        assert is_copied(db, name)


def test_an_erasure_whose_squash_failed_is_carried_through(
    hub: HubServer, place: HubDataset, tmp_path: Path
) -> None:
    store = make_store(tmp_path, Clock())
    copier = Copier(store, place)
    name = complete(store, "CANARY")
    copier()
    withdraw(store, name, "erase", actor="participant")
    hub.refuses = "super-squash"
    with pytest.raises(OSError, match="error"):
        copier()
    assert ever_held(hub, b"remark of CANARY")
    hub.refuses = ""
    Copier(store, place)()  # as after a restart
    assert not ever_held(hub, b"remark of CANARY")
