"""The tiny model in a folder of its own, and the command line run on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny import tiny_library, tiny_model
from typer.testing import CliRunner, Result

from saif.cli.app import app

MODEL = "tiny-llama"


@dataclass(frozen=True)
class Files:
    """A model's folder and a presets folder for it."""

    model: Path
    presets: Path

    def preset(self, name: str = "translate-french") -> Path:
        return self.presets / MODEL / f"{name}.json"


Run = Callable[..., Result]


def _write(root: Path) -> Files:
    model = tiny_model(model_id=MODEL)
    files = Files(root / MODEL, root / "presets")
    model._model.save_pretrained(files.model)
    model.tokenizer.save_pretrained(files.model)
    files.presets.mkdir()
    tiny_library(files.presets, model)
    return files


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Not to be written to; see `own_files`."""
    return _write(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def own_files(tmp_path: Path) -> Files:
    """Files that a test may break."""
    return _write(tmp_path)


@pytest.fixture
def saif() -> Run:
    """`saif("presets", "--json")` runs the command in this process."""

    def run(*arguments: object, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return run


@pytest.fixture
def compare(saif: Run, files: Files) -> Run:
    """`compare` on the tiny model; what a test adds comes last and so wins."""

    def run(*arguments: object, stdin: str | bytes = "") -> Result:
        text, *options = arguments
        here = ("--model", files.model, "--presets", files.presets, "--preset", "translate-french")
        return saif("compare", *here, "--max-new-tokens", 8, *options, "--", text, stdin=stdin)

    return run


@pytest.fixture
def refused() -> Callable[[Result], str]:
    """The one line with which a command refused; nothing else may have been printed."""

    def line(result: Result) -> str:
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.stderr
        return result.stderr

    return line
