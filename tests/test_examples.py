"""Every script in `examples/` and every block of Python in the documents really runs."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_preset
from ui_server import owner_library

import saif
from saif import api
from saif.presets.library import write_preset
from saif.runtime.language_model import LanguageModel

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def tiny_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LanguageModel:
    """The scripts get the tiny model and its presets, in a folder that they may write to."""
    model = tiny_model()
    library = owner_library(tmp_path, monkeypatch)
    write_preset(library.roots[1] / "tiny-llama", tiny_preset(model, "python-code"))
    monkeypatch.setattr(saif, "load_model", lambda *_: model)
    monkeypatch.setattr(api, "_library", lambda _: library)
    monkeypatch.chdir(tmp_path)
    return model


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(
    path: Path, tiny_world: LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    if path.stem == "strengths":
        folder = api._library(None).roots[1] / "tiny-llama"
        write_preset(folder, tiny_preset(tiny_world, "letter"))
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_the_python_in_a_document_runs(name: str, tiny_world: LanguageModel) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text("utf-8"), re.DOTALL)
    assert blocks
    ids = tiny_world.render([{"role": "user", "content": "hi"}])
    scope: dict[str, Any] = {
        "hf_model": tiny_world.hf_model,
        "prompts": {"input_ids": torch.tensor([ids]), "max_new_tokens": 4},
    }
    source = "\n".join(blocks)
    compiled = compile(source, name, "exec")
    exec(compiled, scope)
