"""What can't be done is refused in one line, before the seconds that loading a model takes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from saif.errors import ModelError
from saif.runtime import load

TEXT = "The weather is lovely today."


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded before the request was checked")

    monkeypatch.setattr(load, "load_model", fail)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("",), "message is empty"),
        ((" \n\t",), "message is empty"),
        (("x" * 100_000,), "100,000 characters"),
        (("caf\udce9",), "not valid text"),
        ((TEXT, "--preset", "nix"), "no preset 'nix'.*Available: question, translate-french"),
        ((TEXT, "--preset", "../../etc/passwd"), "not a valid name"),
        ((TEXT, "--preset", "a" * 300), "not a valid name"),
        ((TEXT, "--model", "google/gemma-2-2b-it"), "no preset .* for google/gemma-2-2b-it"),
        ((TEXT, "--model", ""), "name is empty"),
        ((TEXT, "--model", "/nowhere/tiny-llama"), "no folder '/nowhere/tiny-llama'"),
        ((TEXT, "--model", "./tiny-llama"), "no folder './tiny-llama'"),
        ((TEXT, "--model", "Not a model"), "no preset .* for Not a model"),
        ((TEXT, "--presets", "/nowhere"), "no folder '/nowhere'"),
        ((TEXT, "--strength", 3.1), "strength must lie between 0 and 3"),
        ((TEXT, "--strength", -1), "strength must lie between 0 and 3"),
        ((TEXT, "--strength", "nan"), "strength must lie between 0 and 3"),
        ((TEXT, "--strength", "inf"), "strength must lie between 0 and 3"),
        ((TEXT, "--strength", "much"), "--strength"),
        ((TEXT, "--k", 0), "k must lie between 1 and 64"),
        ((TEXT, "--k", 65), "k must lie between 1 and 64"),
        ((TEXT, "--layer", 2), "no SAE at layer 2 .* 1, 3"),
        ((TEXT, "--span", "word"), "--span"),
        ((TEXT, "--placement", "middle"), "--placement.*'pre', 'post'"),
        ((TEXT, "--max-new-tokens", 0), "max_new_tokens must lie between 1"),
        ((TEXT, "--temperature", -0.1), "temperature must lie between 0"),
        ((TEXT, "--temperature", "nan"), "temperature must lie between 0"),
        ((TEXT, "--top-p", 0), "top_p must lie between"),
        ((TEXT, "--repetition-penalty", 9), "repetition_penalty must lie between"),
        ((TEXT, "--seed", -1), "seed must lie between"),
        ((TEXT, "--quantize", "2bit"), "--quantize"),
    ],
)
def test_compare_refuses_in_one_line(compare, refused, arguments, words):
    line = refused(compare(*arguments))
    assert re.search(words, line), line


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("options", [("--preset", "nix"), ("--k", 0), ("--placement", "middle")])
def test_who_asks_for_json_is_refused_in_the_same_line(compare, refused, options):
    assert refused(compare(TEXT, *options, "--json")) == refused(compare(TEXT, *options))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"", "message is empty"),
        (b"\n", "message is empty"),
        (b"caf\xe9", "not UTF-8"),
        (b"x" * 100_000, "100,000 characters"),
        ("é".encode() * 5_000_000, "at most 20,000"),
    ],
    ids=["empty", "newline", "latin-1", "long", "endless"],
)
def test_stdin_is_checked_like_an_argument(compare, refused, stdin, words):
    assert words in refused(compare("-", "--json", stdin=stdin))


def test_more_text_than_the_model_can_read_is_refused(compare, refused):
    line = refused(compare("x" * 2000, "--json"))
    assert "too long for this model: at most 1,016 tokens" in line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"schema_version": 1', '"schema_version": 2', "schema_version"),
        ('"schema_version": 1', '"schema_version": 1, "colour": 1', "colour"),
        ('"residual_norm": 6.0', '"residual_norm": NaN', "residual_norm"),
        ('"dose": 1.0', '"dose": -1.0', "choice.dose"),
        ('"k": 4', '"k": "4"', "choice.k"),
        ('"layer": 1,', '"layer": 9,', "choice.layer"),
        ('"placements"', '"places"', "placements"),
        ("{", "", "Invalid JSON"),
    ],
)
def test_a_broken_preset_is_refused_by_field(own_files, saif, refused, old, new, words):
    path = own_files.preset()
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    for line in _uses(own_files, saif, refused):
        assert path.name in line
        assert re.search(words, line), line


@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
def test_broken_vectors_are_refused(own_files, saif, refused, damage):
    path = own_files.preset().with_suffix(".safetensors")
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.write_bytes(b"\x93NUMPY")
    for line in _uses(own_files, saif, refused):
        assert "translate-french" in line


def _uses(files: object, saif: Callable[..., object], refused: Callable[..., str]) -> list[str]:
    """What `compare` and `presets validate` say about the same preset."""
    path = files.preset()
    here = ("--model", files.model, "--presets", files.presets, "--preset", path.stem)
    return [
        refused(saif("compare", TEXT, "--json", *here)),
        refused(saif("presets", "validate", path)),
    ]


@pytest.mark.parametrize("key", ["id", "fingerprint"])
def test_a_preset_of_another_model_is_refused(own_files, saif, refused, key):
    path = own_files.preset()
    card = json.loads(path.read_text())
    card["model"][key] = "other"
    path.write_text(json.dumps(card))
    here = ("--model", own_files.model, "--presets", own_files.presets, "--preset", path.stem)
    assert "was made for" in refused(saif("compare", TEXT, "--json", *here))


def test_a_folder_without_a_model_is_refused(own_files, saif, refused):
    folder = own_files.model
    for path in folder.iterdir():
        path.unlink()
    here = ("--model", folder, "--presets", own_files.presets, "--preset", "translate-french")
    line = refused(saif("compare", TEXT, "--json", *here))
    assert "could not be loaded" in line
    assert "Give a known name" in line


def test_a_model_that_can_not_be_fetched_is_refused_at_once(own_files, saif, refused, monkeypatch):
    """One question to the hub decides; transformers alone would retry for minutes."""
    asked = []

    def unreachable(_: object, model_id: str, **__: object) -> None:
        asked.append(model_id)
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    here = ("--model", "org/tiny-llama", "--presets", own_files.presets, "--preset", "question")
    line = refused(saif("compare", TEXT, "--json", *here))
    assert "'org/tiny-llama' could not be loaded: it is not on this machine" in line
    assert asked == ["org/tiny-llama"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("--nonsense",),
        ("compare",),
        ("compare", "--preset"),
        ("compare", "a", "b", "--preset", "x"),
        ("presets", "nonsense"),
        ("presets", "show"),
        ("presets", "--json", "show", "question"),
        ("presets", "list", "--presets", "/nowhere"),
        ("models", "--presets", "/nowhere"),
        ("doctor", "--presets", "/nowhere", "--json"),
    ],
)
def test_wrong_usage_is_one_line_too(saif, refused, arguments):
    refused(saif(*arguments))


def test_a_reason_of_many_lines_is_put_on_one(compare, refused, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise ModelError("damaged:\n  line 3", hint="Fetch\nit again.")

    monkeypatch.setattr(load, "load_model", fail)
    assert refused(compare(TEXT)) == "error: damaged: line 3 Fetch it again.\n"


def test_a_bug_gives_a_reference_and_a_log_entry(saif, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret path")

    monkeypatch.setattr("saif.runtime.load.local_source", broken)
    result = saif("models", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    reference = re.search(r"reference ([0-9a-f]{8})\.", result.stderr)
    assert reference is not None
    assert reference[1] in caplog.text
    assert "Traceback" in caplog.text


def test_control_c_ends_with_130_and_no_traceback(compare, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "load_model", interrupted)
    result = compare(TEXT)
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_a_missing_preset_file_is_refused(saif, refused, tmp_path: Path):
    assert "none.json" in refused(saif("presets", "validate", tmp_path / "none.json"))
