"""One short way through each surface, as its user goes it, on the tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
from made_up_participants import complete, make_store
from researcher_server import SECRET, serving
from running_study import served
from tiny import MODEL_ID, tiny_library, tiny_model
from typer.testing import CliRunner
from ui_server import STEERED, UNSTEERED, Visitor, loaded, page

from saif.cli.app import app
from saif.engine.local import SharedEngine
from saif.presets.library import SHIPPED, Library

ROOT = Path(__file__).parents[2]


def test_the_shipped_presets_can_be_listed_and_loaded() -> None:
    library = Library(SHIPPED)
    names = [(model, name) for model in library.model_ids() for name in library.preset_ids(model)]
    assert names
    for model, name in names:
        preset = library.preset(model, name)
        assert preset.preset.placements
        assert preset.vectors


def test_a_command_in_a_process_of_its_own_steers_and_prints_json(tmp_path: Path) -> None:
    model = tiny_model(model_id="tiny-llama")
    model._model.save_pretrained(tmp_path / "tiny-llama")
    model.tokenizer.save_pretrained(tmp_path / "tiny-llama")
    (tmp_path / "presets").mkdir()
    tiny_library(tmp_path / "presets", model)
    command = [
        sys.executable, "-m", "saif", "compare", "The weather is lovely.", "--json",
        "--preset", "translate-french", "--max-new-tokens", "4",
        "--model", str(tmp_path / "tiny-llama"), "--presets", str(tmp_path / "presets"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    columns = {column["name"]: column for column in json.loads(done.stdout)["columns"]}
    assert list(columns) == ["unsteered", "steered", "prompted"]
    assert columns["unsteered"]["steered_positions"] == 0
    assert columns["steered"]["steered_positions"] > 0
    assert columns["steered"]["token_ids"] != columns["unsteered"]["token_ids"]


def test_a_visitor_of_the_chat_sees_both_answers(tmp_path: Path) -> None:
    model = tiny_model()
    library = tiny_library(tmp_path, model)
    with page(library, MODEL_ID, loaded(SharedEngine(model))) as address:
        visitor = Visitor(address)
        answer = visitor.send("hello")
        assert answer.column(UNSTEERED)[0] == answer.column(STEERED)[0] == "hello"
        assert answer.reply(UNSTEERED) != answer.reply(STEERED)
        same = visitor.retry(strength=0)
        assert same.reply(UNSTEERED) == same.reply(STEERED)


def test_a_participant_walks_through_a_study(tmp_path: Path) -> None:
    with served(tmp_path, shared=True) as running:
        visitor = running.visitor()
        visitor.enter()
        visitor.agree()
        assert visitor.walk()["completion"]["code"]


def test_a_researcher_logs_in_and_reads_how_a_study_goes(tmp_path: Path) -> None:
    store = make_store(tmp_path, quota__complete=3)
    complete(store)
    with (
        serving(store) as address,
        httpx.Client(base_url=address, headers={"Origin": address}) as client,
    ):
        assert store.study.id not in client.get("/researcher").text
        assert client.post("/researcher/login", data={"secret": SECRET}).status_code == 303
        assert store.study.id in client.get("/researcher").text


def test_every_command_explains_itself() -> None:
    for command in ((), ("compare",), ("calibrate",), ("study",), ("study", "analyse")):
        said = CliRunner().invoke(app, [*command, "--help"])
        assert (said.exit_code, "Usage" in said.stdout) == (0, True), command
