"""Where the secrets of a study come from, and that another key than the first is refused."""

from pathlib import Path

import pytest
from made_up_participants import Clock, complete, make_store, published, rows

from saif.errors import StudyError
from saif.study.store.identities import (
    KEY_VARIABLE,
    SECRET_VARIABLE,
    key_file,
    key_of,
    keyed_hash,
    make_key,
    researcher_secret,
)
from saif.study.store.store import Store


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (KEY_VARIABLE, SECRET_VARIABLE, "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAIF_HOME", str(tmp_path / "home"))


def test_a_key_that_was_made_is_the_user_s_alone_and_stays_the_same() -> None:
    path = make_key("a-study")
    assert path == key_file("a-study")
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0
    key = key_of("a-study")
    assert len(key) == 64
    assert make_key("a-study") == path
    assert key_of("a-study") == key
    make_key("another")
    assert key_of("another") != key


def test_the_environment_s_key_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    make_key("a-study")
    monkeypatch.setenv(KEY_VARIABLE, "e" * 32)
    assert key_of("a-study") == b"e" * 32
    assert make_key("no-file") is None
    assert not key_file("no-file").exists()
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(StudyError, match="at least 32"):
        key_of("a-study")


def test_on_a_space_only_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    make_key("a-study")
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert make_key("another") is None
    with pytest.raises(StudyError, match=KEY_VARIABLE):
        key_of("a-study")


def test_a_key_that_is_missing_or_broken_is_told_by_its_file() -> None:
    with pytest.raises(StudyError, match=r"a-study\.key can't be read") as caught:
        key_of("a-study")
    assert KEY_VARIABLE in caught.value.hint
    make_key("a-study")
    key_file("a-study").write_text("short")
    with pytest.raises(StudyError, match="shorter than 32"):
        key_of("a-study")


def test_a_secret_is_long_or_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert researcher_secret() is None
    monkeypatch.setenv(SECRET_VARIABLE, "x" * 15)
    with pytest.raises(StudyError, match="at least 16"):
        researcher_secret()
    monkeypatch.setenv(SECRET_VARIABLE, "x" * 16)
    assert researcher_secret() == "x" * 16


def test_a_keyed_hash_knows_where_its_parts_end() -> None:
    key = b"k" * 32
    assert keyed_hash(key, "a", "bc") == keyed_hash(key, "a", "bc")
    assert keyed_hash(key, "a", "bc") != keyed_hash(key, "ab", "c") != keyed_hash(key, "abc")


def test_a_store_is_not_opened_with_another_key(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    before = rows(store, "SELECT * FROM setting")
    with pytest.raises(StudyError, match="not the key"):
        Store(store.folder, store.version, b"another key of thirty-two bytes or more")
    assert rows(store, "SELECT * FROM setting") == before
    make_store(tmp_path)


def test_without_a_key_one_can_only_look(tmp_path: Path) -> None:
    looked = Store(tmp_path, published(), None, clock=Clock())
    assert rows(looked, "SELECT * FROM audit") == []
    with pytest.raises(StudyError, match="to look only"):
        looked.receipt("someone")
    with pytest.raises(StudyError, match="to look only"):
        complete(looked)
    assert rows(looked, "SELECT * FROM participant") == []
