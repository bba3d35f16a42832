"""Instructions: the shipped ones are whole, damaged ones are refused by field."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from saif.errors import PresetError
from saif.presets.instructions import place
from saif.presets.library import Library, read_instruction

SHIPPED = Library().instruction_ids()


def test_at_least_eight_instructions_ship() -> None:
    asked_for = {
        "translate-french",
        "translate-spanish",
        "translate-german",
        "summarise",
        "bullet-list",
        "question",
        "verse",
    }
    assert asked_for < set(SHIPPED)
    assert len(SHIPPED) >= 8


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_instruction_has_wordings_in_five_languages(name: str) -> None:
    instruction = Library().instruction(name)
    english = [w.text for w in instruction.wordings if w.language == "en"]
    others = {w.language for w in instruction.wordings} - {"en"}
    assert len(set(english)) == len(english) >= 6
    assert len(others) >= 4
    assert instruction.main_wording == english[0]
    assert instruction.examples
    assert all(text.strip() == text for text in english)


def test_placement_is_the_order_of_instruction_and_content() -> None:
    assert place("Do this.", "A text.", "pre") == "Do this.\nA text."
    assert place("Do this.", "A text.", "post") == "A text.\nDo this."


@pytest.fixture
def good() -> dict[str, Any]:
    path = Library().root / "instructions" / "question.yaml"
    return yaml.safe_load(path.read_text("utf-8"))


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "question.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(PresetError) as refused:
        read_instruction(path)
    assert "\n" not in refused.value.sentence
    assert "question.yaml" in str(refused.value)
    return str(refused.value)


def without_french(instruction: dict[str, Any]) -> None:
    wordings = instruction["wordings"]
    instruction["wordings"] = [w for w in wordings if w["language"] != "fr"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda i: i.update(colour="red"), "colour: Extra inputs"),
        (lambda i: i.pop("title"), "title: Field required"),
        (lambda i: i.update(title=7), "title: "),
        (lambda i: i.update(contents="novel"), "contents: "),
        (lambda i: i.update(examples=[]), "examples: "),
        (lambda i: i["check"].update(kind="mood"), "check.kind: "),
        (lambda i: i["check"].update(language="fr"), "check: Value error, language"),
        (lambda i: i["check"].update(strict=True), "check.strict: "),
        (lambda i: i["wordings"][0].update(language="English"), "wordings.0.language: "),
        (lambda i: i["wordings"][0].update(text=""), "wordings.0.text: "),
        (lambda i: i["wordings"].__delitem__(slice(0, 2)), "at least 6 in English"),
        (without_french, "4 in other languages"),
        (lambda i: i.update(id="verse"), "id: is 'verse'"),
    ],
)
def test_a_damaged_instruction_is_refused_by_field(
    tmp_path: Path, good: dict[str, Any], damage: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    damage(good)
    assert reason in refusal(tmp_path, yaml.safe_dump(good, allow_unicode=True))


@pytest.mark.parametrize(
    "text",
    ["", "just words", "- a\n- b", "a: [1", "a: b: c:\n  -d", "!!python/object:os.system {}"],
)
def test_what_is_no_instruction_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    refusal(tmp_path, text)


def test_a_yaml_date_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    assert "can't be read" in refusal(tmp_path, "id: 2026-99-99")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "question.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PresetError, match=r"question\.yaml can't be read"):
        read_instruction(path)
