"""Presets shared through a hub: a real server that speaks its protocol."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, reachable_hub

from saif.presets.library import Library


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with reachable_hub(monkeypatch, tmp_path / "hub") as server:
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


@pytest.fixture
def push(saif, files):
    return lambda *more: saif("presets", "push", "me/presets", "--model", "tiny-llama",
                              "--presets", files.presets, *more)  # fmt: skip


def test_what_is_pushed_can_be_pulled_and_used(saif, push, files, hub, tmp_path) -> None:
    result = push()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == f"{hub.url}/me/presets"
    sent = hub.repositories["me/presets"]
    assert {"question.json", "question.safetensors", "README.md"} <= set(sent)
    card = sent["README.md"].decode()
    assert card.startswith("---\nbase_model: tiny-llama\n")
    assert "- `question`: " in card
    assert "presets pull me/presets" in card
    assert "| preset | placement |" in card

    other = tmp_path / "other"
    other.mkdir()
    pulled = saif("presets", "pull", "me/presets", "--presets", other)
    assert pulled.exit_code == 0, pulled.stderr
    for name in ("question.json", "question.safetensors"):
        assert (other / "tiny-llama" / name).read_bytes() == sent[name]
    assert Library(other).preset("tiny-llama", "question").preset.title


def test_a_preset_of_yours_is_only_lost_if_you_say_so(saif, push, files, hub) -> None:
    push("--preset", "question")
    assert set(hub.repositories["me/presets"]) == {
        "question.json", "question.safetensors", "README.md"
    }  # fmt: skip
    mine = files.presets / "tiny-llama" / "question.json"
    changed = json.loads(mine.read_text()) | {"title": "My own"}
    mine.write_text(json.dumps(changed))
    refused = saif("presets", "pull", "me/presets", "--presets", files.presets)
    assert refused.exit_code == 2
    assert "another preset 'question'" in refused.stderr
    assert json.loads(mine.read_text())["title"] == "My own"
    again = saif("presets", "pull", "me/presets", "--presets", files.presets, "--replace")
    assert again.exit_code == 0, again.stderr
    assert json.loads(mine.read_text())["title"] != "My own"


def test_a_damaged_preset_is_not_kept(saif, push, hub, tmp_path) -> None:
    push()
    hub.repositories["me/presets"]["question.safetensors"] = b"nonsense"
    other = tmp_path / "other"
    other.mkdir()
    result = saif("presets", "pull", "me/presets", "--presets", other)
    assert result.exit_code == 2
    assert "vectors of the preset 'question' can't be read" in result.stderr
    assert list(other.iterdir()) == []


def test_the_hub_s_refusals_are_one_line(saif, push, hub, files, monkeypatch, tmp_path) -> None:
    def said(result) -> str:
        assert result.exit_code == 2
        *_progress, line = result.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    assert "no such repository" in said(saif("presets", "pull", "you/none"))
    assert "not a repository's name" in said(saif("presets", "pull", "a b c"))
    hub.repositories["you/empty"] = {"README.md": b"nothing here"}
    assert "holds no presets" in said(saif("presets", "pull", "you/empty"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "doesn't allow it" in said(push())
    assert "no presets for gpt2" in said(
        saif("presets", "push", "me/p", "--model", "gpt2", "--presets", files.presets)
    )
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "can't be reached" in said(push())
