"""The commands of a study, from a first draft to its restored backup."""

import json
import subprocess
from pathlib import Path

import pytest
from made_up_participants import rows

from saif.cli.study.running import open_study
from saif.study.design.publish import versions
from saif.study.design.study_file import read_study
from saif.study.simulation.simulate import BotBehaviour, simulate
from saif.study.store.identities import KEY_VARIABLE, key_file
from saif.study.store.store import Store


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setenv("SAIF_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(saif, tmp_path) -> Path:
    """A study that was published."""
    saif("study", "init", tmp_path / "study.yaml", "--id", "my-study", "--title", "Which: one?")
    result = saif("study", "publish", tmp_path / "study.yaml", "--to", tmp_path / "served")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "served"


@pytest.fixture
def store(folder) -> Store:
    return open_study(folder)


def played(store: Store, n: int = 1) -> list[str]:
    """The ids of `n` made-up participants who finished."""
    simulate(store, n, BotBehaviour(dropout=0.0))
    return [str(row[0]) for row in rows(store, "SELECT participant_id FROM participant")]


def test_a_draft_is_a_study_with_comments_and_is_never_overwritten(saif, refused, tmp_path):
    file = tmp_path / "mine.yaml"
    result = saif("study", "init", file, "--id", "my-study", "--title", 'A "quoted": title')
    assert result.exit_code == 0
    study = read_study(file)
    assert (study.id, study.title) == ("my-study", 'A "quoted": title')
    text = file.read_text("utf-8")
    assert "# What is compared." in text
    assert "nothing is overwritten" in refused(saif("study", "init", file))
    assert file.read_text("utf-8") == text


@pytest.mark.parametrize("wrong", [("--id", "My Study"), ("--title", ""), ("--title", "x" * 200)])
def test_a_draft_with_a_wrong_name_is_not_written(saif, refused, tmp_path, wrong):
    assert wrong[0].strip("-") in refused(saif("study", "init", tmp_path / "x.yaml", *wrong))
    assert not (tmp_path / "x.yaml").exists()


def test_checking_tells_what_is_wrong_by_its_exit_status(saif, tmp_path):
    file = tmp_path / "study.yaml"
    saif("study", "init", file)
    fine = saif("study", "check", file)
    assert fine.exit_code == 0
    assert "0 wrong" in fine.stdout
    file.write_text(file.read_text("utf-8").replace("id: two-answers", "id: x", 1), "utf-8")
    file.write_text(file.read_text("utf-8").replace("translate-french", "no-such-preset"), "utf-8")
    wrong = saif("study", "check", file, "--json")
    assert wrong.exit_code == 2
    found = json.loads(wrong.stdout)["findings"]
    assert found[0]["severity"] == "wrong"
    assert "no-such-preset" in found[0]["message"]


def test_publishing_freezes_the_study_and_makes_its_key_elsewhere(saif, tmp_path):
    file = tmp_path / "study.yaml"
    saif("study", "init", file, "--id", "my-study")
    result = saif("study", "publish", file, "--to", tmp_path / "served", "--json")
    told = json.loads(result.stdout)
    (version,) = versions(tmp_path / "served")
    assert told["id"] == version.id
    assert told["key_file"] == str(key_file("my-study"))
    assert "?key=" in told["link"]
    assert not list((tmp_path / "served").glob("*key*"))
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    assert version.code is None or version.code.removesuffix("-changed") == commit


def test_a_place_that_recruits_fills_in_its_own_names(saif, tmp_path):
    file = tmp_path / "study.yaml"
    saif("study", "init", file)
    text = file.read_text("utf-8")
    text = text.replace("recruitment: {kind: link}", "").replace("# recruitment", "recruitment")
    file.write_text(text, "utf-8")
    result = saif("study", "publish", file, "--to", tmp_path / "served")
    assert "?PROLIFIC_PID={{%PROLIFIC_PID%}}&STUDY_ID={{%STUDY_ID%}}" in result.stdout


def test_the_status_tells_counts_and_never_an_outcome(saif, refused, folder):
    assert "never served" in refused(saif("study", "status", folder))
    assert not (folder / "study.db").exists()
    store = open_study(folder)
    played(store, 3)
    key_file("my-study").unlink()  # to look, none is needed
    told = json.loads(saif("study", "status", folder, "--json").stdout)
    assert told["participants"]["complete"] == 3
    assert (told["target"], told["missing"], told["places_left"]) == (20, 17, 17)
    assert told["missed_checks"] == {"0": 3}
    shown = saif("study", "status", folder).stdout
    assert "17 of 20" in shown
    for text in (json.dumps(told), shown):
        assert "steered" not in text
        assert "prefer" not in text.replace(store.study.title, "")


def test_a_pause_is_told_and_ends(saif, folder, store):
    assert saif("study", "pause", folder).exit_code == 0
    assert json.loads(saif("study", "status", folder, "--json").stdout)["paused"] is True
    assert "Paused" in saif("study", "status", folder).stdout
    saif("study", "resume", folder)
    assert json.loads(saif("study", "status", folder, "--json").stdout)["paused"] is False


def test_erasing_asks_first_and_takes_a_receipt_or_an_id(saif, refused, folder, store):
    one, two, three = played(store, 3)
    for answer, status_of in (("n\n", 1), ("", 130)):
        asked = saif("study", "erase", folder, store.receipt(one), stdin=answer)
        assert asked.exit_code == status_of
        assert f"participant {one} (complete)?" in asked.stderr
        assert "bug" not in asked.stderr
    status = lambda: json.loads(saif("study", "status", folder, "--json").stdout)["participants"]  # noqa: E731
    assert status()["erased"] == 0
    assert saif("study", "erase", folder, store.receipt(one), stdin="y\n").exit_code == 0
    assert saif("study", "erase", folder, two, "--yes").stdout == f"Erased: {two}\n"
    left = saif("study", "erase", folder, three, "--yes", "--only-leave-out")
    assert left.stdout == f"Left out: {three}\n"
    assert (status()["erased"], status()["withdrawn"]) == (2, 1)
    assert "not known" in refused(saif("study", "erase", folder, f"{three}-000000000000", "--yes"))
    assert "no participant" in refused(saif("study", "erase", folder, "nobody", "--yes"))


def test_a_backup_becomes_a_folder_that_can_be_served(saif, refused, folder, store, tmp_path):
    (name,) = played(store)
    copy = saif("study", "backup", folder).stdout.strip()
    other = tmp_path / "other"
    assert saif("study", "restore", copy, "--to", other).exit_code == 0
    assert saif("study", "verify", other).stdout.startswith("OK: ")
    restored = open_study(other)
    assert restored.version == store.version
    assert restored.of_receipt(store.receipt(name)) == name
    assert "nothing is overwritten" in refused(saif("study", "restore", copy, "--to", other))


def test_verifying_notices_a_changed_file(saif, refused, folder, store):
    played(store)
    head = json.loads(saif("study", "verify", folder, "--json").stdout)
    assert head["ok"] is True
    with store.database.transaction() as db:
        db.execute("DROP TRIGGER audit_is_never_changed")
        db.execute("UPDATE audit SET actor = 'x' WHERE seq = 3")
    assert "tampered with at row 3" in refused(saif("study", "verify", folder))
