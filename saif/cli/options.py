"""Options that several commands share, and opening what they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saif.core.types import Thoroughness
from saif.errors import PresetError
from saif.runtime.load import DEFAULT_MODEL, QuantizeOrAuto

if TYPE_CHECKING:
    from saif.engine.local import LocalEngine
    from saif.presets.library import Library

ModelOption = Annotated[
    str, typer.Option("--model", metavar="M", help="A known name, a hub id or a local folder.")
]
QuantizeOption = Annotated[
    QuantizeOrAuto,
    typer.Option("--quantize", help="Load the weights in fewer bits; auto: as many as fit."),
]
PresetsOption = Annotated[
    Path | None,
    typer.Option(
        "--presets", metavar="DIR", help="A folder of presets instead of the shipped and own ones."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")
]
PresetIdsOption = Annotated[
    list[str] | None,
    typer.Option("--preset", metavar="ID", help="Several allowed; all if left out."),
]
SaesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sae",
        metavar="SAE",
        help="RELEASE/ID or a local folder, one per layer; the model's own if left out.",
    ),
]
EffortOption = Annotated[
    Thoroughness,
    typer.Option(help="How long to search; quick takes a third of the work and finds less."),
]

__all__ = ["DEFAULT_MODEL"]  # every command that takes a model has this default


def open_library(folder: Path | None) -> "Library":
    """The presets in `folder`, or the shipped ones and the user's own."""
    from saif.presets.library import Library, user_folder

    if folder is None:
        return Library(own=user_folder())
    if not folder.is_dir():
        raise PresetError(
            f"There is no folder '{folder}'.", hint="Give a presets folder with --presets."
        )
    return Library(folder)


def open_engine(model: str, quantize: QuantizeOrAuto = "none") -> "LocalEngine":
    """Load a model, saying so on a terminal; whatever libraries print goes to stderr."""
    from saif.cli.output import chatter_to_stderr, working
    from saif.engine.local import LocalEngine
    from saif.runtime.load import load_model

    with chatter_to_stderr(), working(f"Loading {model} …"):
        return LocalEngine(load_model(model, quantize=quantize))
