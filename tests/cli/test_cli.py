"""The small commands, and what holds for the command line as a whole."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from saif import __version__
from saif.presets.library import SHIPPED
from saif.runtime import embedded
from saif.runtime.cpu import build
from saif.runtime.load import local_source

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "gradio", "sae_lens", "bitsandbytes", "scipy")


@pytest.mark.parametrize(
    "arguments", [("--help",), ("compare", "--help"), ("presets",), ("models", "--json")]
)
def test_looking_around_loads_nothing_heavy(arguments):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['saif', *{arguments!r}]\n"
        "try:\n    runpy.run_module('saif', run_name='__main__')\n"
        "except SystemExit as done:\n    assert done.code == 0, done.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr.strip() == "[]"


def test_help_names_every_command(saif):
    for arguments in ((), ("--help",), ("-h",)):
        result = saif(*arguments)
        assert result.exit_code == 0
        for command in ("compare", "presets", "models", "doctor"):
            assert f"\n  {command} " in result.stdout


def test_version(saif):
    assert saif("--version").stdout == f"saif {__version__}\n"


# presets


def test_presets_lists_by_default(saif, files):
    for arguments in (("presets",), ("presets", "list")):
        result = saif(*arguments, "--presets", files.presets, "--json")
        assert result.exit_code == 0
        document = json.loads(result.stdout)
        assert [preset["id"] for preset in document["presets"]] == ["question", "translate-french"]
        assert document["presets"][1]["placements"]["post"]["layer"] == 1
        assert document["broken"] == []
        text = saif(*arguments, "--presets", files.presets).stdout
        assert "question" in text
        assert "not measured" in " ".join(text.split())


def test_a_broken_preset_does_not_hide_the_others(saif, own_files):
    own_files.preset("question").write_text("{}")
    document = json.loads(saif("presets", "--presets", own_files.presets, "--json").stdout)
    assert [preset["id"] for preset in document["presets"]] == ["translate-french"]
    assert document["broken"][0]["path"].endswith("question.json")
    text = saif("presets", "--presets", own_files.presets).stdout
    assert "not ok: question.json is not a valid preset" in text


def test_presets_show_tells_latents_choice_and_scores(saif, own_files):
    path = own_files.preset()
    card = json.loads(path.read_text())
    rate = {"successes": 33, "n": 50, "low": 0.52, "high": 0.77}
    rates = {"loose": rate, "strict": rate, "degenerate": rate}
    row = {**rates, "perplexity": 12.5, "layer": 1, "dose": None}
    card["placements"]["post"]["scores"] = {
        "split": "test", "n": 50, "max_new_tokens": 60, "perplexity_bound": 40.0, "command": "x",
        "conditions": [row | {"condition": name} for name in ("steered", "[bold]saif")],
    }  # fmt: skip
    path.write_text(json.dumps(card))
    here = ("--model", own_files.model, "--presets", own_files.presets)
    text = saif("presets", "show", "translate-french", *here).stdout
    assert "after the content (post)" in text
    assert "before the content (pre)" in text
    assert "word0, other0" in " ".join(text.split())
    assert "66 (52–77) 66 (52–77) 66 12.5 1" in " ".join(text.split())
    assert "[bold]saif" in text
    assert "Not measured." in text
    assert json.loads(saif("presets", "show", "translate-french", *here, "--json").stdout) == card
    assert "66% of 50" in " ".join(saif("presets", *here[2:]).stdout.split())


def test_presets_show_lists_the_latents_that_steer_best_first(saif, files):
    here = ("--model", files.model, "--presets", files.presets)
    text = saif("presets", "show", "translate-french", *here).stdout
    latents = [line.split()[0] for line in text.splitlines() if line.startswith("  1")]
    assert latents == ["10", "11", "12", "13"] * 2  # k = 4, both placements


def test_validate_says_ok_for_what_is_valid(saif, files):
    for path in (
        files.preset(),
        files.preset().with_suffix(".safetensors"),
        SHIPPED / "instructions" / "verse.yaml",
    ):
        result = saif("presets", "validate", path)
        assert result.exit_code == 0
        assert result.stdout.startswith("OK: ")
        assert json.loads(saif("presets", "validate", path, "--json").stdout)["ok"] is True


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("verse.yaml", "id: verse\ncolour: blue\n", "verse.yaml: "),
        ("verse.yaml", "a: [unclosed\n", "verse.yaml can't be read"),
        ("verse.yaml", b"\xff\xfe\x00", "verse.yaml can't be read"),
        ("verse.yaml", "!!python/object/apply:os.system ['true']", "verse.yaml can't be read"),
        ("verse.json", "[]", "verse.json is not a valid preset"),
        ("VERSE.json", "{}", "not a valid name"),
        ("verse.txt", "", "neither a preset nor an instruction"),
    ],
)
def test_validate_names_what_is_wrong(saif, refused, tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in refused(saif("presets", "validate", path))


# models, doctor, setup


def test_models_lists_known_ones_and_those_with_presets(saif, files):
    document = json.loads(saif("models", "--presets", files.presets, "--json").stdout)
    default, *others, tiny = document["models"]
    assert default["name"] == "smollm2-135m-instruct"
    assert default["id"] == embedded.MODEL_ID
    assert default["presets"] == []
    assert tiny == {
        "name": "tiny-llama",
        "id": "tiny-llama",
        "at_hand": None,
        "presets": ["question", "translate-french"],
    }
    (gemma,) = (model for model in others if model["name"] == "gemma-2-2b")
    assert (gemma["chat"], gemma["gated"], gemma["n_layers"]) == (False, True, 26)
    assert gemma["memory_gb"] == {"none": 5.2, "int8": 3.2, "4bit": 2.2}
    listed = saif("models", "--presets", files.presets).stdout
    row = next(line for line in listed.splitlines() if "llama-3.1-8b-instruct" in line)
    assert row.split()[1:3] == ["chat", "gated"]
    assert "7 of 32" in row
    assert max(map(len, listed.splitlines())) <= 80


def test_one_model_is_shown_with_its_saes(saif, refused, files):
    words = " ".join(saif("models", "Gemma-2-9b-it").stdout.split())
    assert "Its licence has to be accepted on the hub." in words
    assert "gemma-scope-9b-it-res-canonical/layer_{layer}/width_16k" in words
    assert "9, 20, 31" in words
    assert "(of the base model)" in words
    last = " ".join(saif("models", "meta-llama/llama-3.1-8b-instruct").stdout.split())
    assert "The last layer (31) has none." in last
    assert "a plain-text template" in saif("models", "gpt2-small").stdout
    assert "no known model 'gemma-9000'" in refused(saif("models", "gemma-9000"))


def test_a_model_is_at_hand_once_its_weights_are_cached(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--chat" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--chat" / "refs").mkdir()
    (tmp_path / "models--org--chat" / "refs" / "main").write_text("0" * 40)
    assert local_source("org/chat") is None
    (snapshot / "config.json").write_text("{}")
    assert local_source("org/chat") is None  # the download was broken off
    (snapshot / "model.safetensors").write_text("")
    assert local_source("org/chat") == "hub cache"
    assert local_source("not/a/hub/id") is None


def test_the_embedded_model_is_at_hand_in_steps(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "gguf_file", lambda: None)
    assert local_source(embedded.MODEL_ID) is None
    monkeypatch.setattr(embedded, "gguf_file", lambda: tmp_path / "model.gguf")
    assert local_source(embedded.MODEL_ID) == "package"
    monkeypatch.setattr(embedded, "_is_whole", lambda folder: True)
    assert local_source(embedded.MODEL_ID) == "converted"


def test_doctor_is_content_with_a_whole_installation(saif, files, monkeypatch):
    monkeypatch.setattr(embedded, "is_converted", lambda: True)
    result = saif("doctor", "--presets", files.presets)
    assert result.exit_code == 0, result.stdout
    assert all(line.startswith(("ok ", "not ok ")) for line in result.stdout.splitlines())
    assert "Presets: 2 valid, for tiny-llama" in result.stdout
    document = json.loads(saif("doctor", "--presets", files.presets, "--json").stdout)
    assert document["ok"] is True
    assert {"torch", "gradio", "Memory", "Threads", "Embedded model", "Chromium"} <= {
        finding["name"] for finding in document["findings"]
    }


def test_doctor_names_what_is_missing_and_what_to_do(saif, own_files, monkeypatch):
    own_files.preset("question").write_text("{}")
    monkeypatch.setattr(embedded, "is_converted", lambda: False)
    monkeypatch.setattr(embedded, "gguf_file", lambda: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    result = saif("doctor", "--presets", own_files.presets)
    assert result.exit_code == 2
    assert "not ok  Embedded model: not installed. Run `make setup`" in result.stdout
    assert "not ok  Preset question: question.json is not a valid preset" in result.stdout
    assert "not ok  Chromium: not found (optional)" in result.stdout


def test_doctor_compares_what_is_installed_with_the_pins(saif, files, tmp_path, monkeypatch):
    pins = tmp_path / "requirements.txt"
    pins.write_text("torch==0.0.1 # old\nno-such-package==1.0\n# a comment\n")
    monkeypatch.setattr("saif.cli.doctor._REQUIREMENTS", pins)
    result = saif("doctor", "--presets", files.presets)
    assert result.exit_code == 2
    assert "instead of 0.0.1 (optional)" in result.stdout
    assert "not ok  no-such-package: not installed. Run `make setup`." in result.stdout


def test_setup_converts_once_and_says_so(saif, monkeypatch, tmp_path):
    converted = []
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "gguf_file", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(embedded, "_convert", lambda *_: converted.append(1))
    result = saif("setup", "--no-compile")
    assert result.exit_code == 0
    assert converted == [1]
    assert result.stdout == ""
    assert "happens once" in result.stderr
    assert str(tmp_path) in result.stderr


def test_setup_into_a_folder_that_is_not_ours_is_refused(saif, refused, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(embedded, "gguf_file", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
    result = saif("setup")
    result.stderr_bytes = result.stderr_bytes.split(b"\n", 1)[1]  # the note that it converts now
    assert "SAIF_CACHE" in refused(result)


def test_setup_without_the_package_is_refused(saif, refused, monkeypatch):
    monkeypatch.setattr(embedded, "gguf_file", lambda: None)
    assert "make setup" in refused(saif("setup"))


@pytest.fixture
def compiling(monkeypatch, tmp_path):
    """What `setup` does about the compiled step, with everything else done and nothing compiled."""
    from saif.runtime import embedded

    made = []
    monkeypatch.setattr(embedded, "is_converted", lambda: True)
    monkeypatch.setattr(build, "library", lambda: None)
    monkeypatch.setattr(build, "compile_library", lambda: made.append(1) or tmp_path / "a.so")
    return made


def test_setup_compiles_the_decoding_step(saif, compiling):
    result = saif("setup")
    assert result.exit_code == 0
    assert compiling == [1]
    assert "a.so" in result.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "environment"), [(["--no-compile"], {}), ([], {"SAIF_COMPILE": "0"})]
)
def test_setup_compiles_nothing_where_that_is_not_wanted(
    saif, compiling, monkeypatch, arguments, environment
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert saif("setup", *arguments).exit_code == 0
    assert not compiling


def test_setup_says_nothing_when_there_is_nothing_to_do(saif, compiling, monkeypatch):

    monkeypatch.setattr(embedded, "_convert", lambda *_: pytest.fail("converted again"))
    monkeypatch.setattr(build, "library", object)
    result = saif("setup")
    assert (result.exit_code, result.output) == (0, "")
    assert not compiling


@pytest.mark.parametrize("broken", ["no compiler", "cannot compile", "no room"])
def test_setup_does_not_fail_where_nothing_can_be_compiled(saif, monkeypatch, tmp_path, broken):
    from saif.runtime import embedded
    from saif.runtime.cpu import build

    monkeypatch.setattr(embedded, "is_converted", lambda: True)
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path / "cache"))
    build.library.cache_clear()
    tools = tmp_path / "tools"
    tools.mkdir()
    if broken != "no compiler":
        (tools / "cc").write_text("#!/bin/sh\necho 'error: no' >&2\nexit 1\n")
        (tools / "cc").chmod(0o755)
    if broken == "no room":
        (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("PATH", str(tools))
    result = saif("setup")
    build.library.cache_clear()
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("The decoding step stays uncompiled. ")
    assert result.stderr.count("\n") == 1


def test_doctor_says_whether_decoding_is_compiled(saif, monkeypatch):

    compiled = SimpleNamespace(saif_kernel=lambda: b"NEON")
    for found, words in ((None, "not compiled"), (compiled, "Decoding: compiled for NEON")):
        monkeypatch.setattr(build, "library", lambda found=found: found)
        assert words in saif("doctor").stdout.replace("\n", " ")
