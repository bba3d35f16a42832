"""A store that an earlier saif made is brought up to date and loses nothing."""

import sqlite3
from pathlib import Path

import pytest
from made_up_participants import KEY, Clock, complete, make_store, rows
from stored_votes import flow, votes

from saif.errors import StudyError
from saif.study.design.publish import Version
from saif.study.store import audit
from saif.study.store.schema import MIGRATIONS
from saif.study.store.store import Store

FIRST = Path(__file__).parent / "first_schema.sql"
"""What `sqlite3 study.db .dump` said of a store of the first schema: one person who reported a
comparison and left, one who finished and one who was erased."""


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """The first schema's store, opened by today's code."""
    db = sqlite3.connect(tmp_path / "study.db")
    db.executescript(FIRST.read_text("utf-8"))
    version = Version.model_validate_json(
        db.execute("SELECT config_json FROM study_version").fetchone()[0]
    )
    db.close()
    return Store(tmp_path, version, KEY, clock=Clock())


def test_a_store_of_the_first_schema_is_migrated(old: Store) -> None:
    assert rows(old, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    old.database.check()
    with old.database.snapshot() as db:
        audit.verify(db)
    assert flow(old) == {
        "enrolled": 0, "active": 1, "complete": 1, "screened": 0, "stale": 0, "withdrawn": 0,
        "erased": 1, "void_trials": 1,
    }  # fmt: skip
    assert [vote.choice for vote in votes(old)] == ["L", "L"]
    complete(old, "new")
    assert flow(old)["complete"] == 2


def test_what_was_reported_moves_from_the_outbox_to_its_trial(old: Store) -> None:
    assert rows(old, "SELECT void_reason, void_detail FROM trial WHERE state = 'void'") == [
        ("reported", "It was rude to me.")
    ]
    assert rows(old, "SELECT 1 FROM sqlite_master WHERE name = 'outbox'") == []


def test_a_migrated_store_is_like_a_new_one(old: Store, tmp_path: Path) -> None:
    def shape(store: Store) -> dict[str, object]:
        made = rows(store, "SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return {
            name: rows(store, f"PRAGMA table_info({name})") if kind == "table" else kind
            for name, kind in made
        }

    assert shape(old) == shape(make_store(tmp_path / "new"))


def test_a_store_whose_outbox_was_marked_by_triggers_is_migrated(tmp_path: Path) -> None:
    """The second schema had them; its migration doesn't make them any more."""
    db = sqlite3.connect(tmp_path / "study.db")
    db.executescript(FIRST.read_text("utf-8"))
    db.executescript(
        MIGRATIONS[1] + "ALTER TABLE outbox DROP COLUMN payload;"
        "CREATE TRIGGER a_turn_is_copied AFTER INSERT ON turn BEGIN "
        "INSERT INTO outbox(participant_id, kind) SELECT participant_id, 'turn' FROM trial "
        "WHERE trial_id = NEW.trial_id; END; PRAGMA user_version = 2;"
    )
    [config] = db.execute("SELECT config_json FROM study_version").fetchone()
    db.close()
    store = Store(tmp_path, Version.model_validate_json(config), KEY, clock=Clock())
    complete(store, "new")
    assert flow(store)["complete"] == 2
    assert rows(store, "SELECT 1 FROM sqlite_master WHERE name LIKE '%copied'") == []


def test_a_store_of_a_later_schema_is_refused(old: Store) -> None:
    db = sqlite3.connect(old.database.path)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(StudyError, match="newer version of saif"):
        Store(old.folder, old.version, KEY)
