"""`models`: which models are known, and which of them can be used right away."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from saif.cli.options import JsonOption, PresetsOption, open_library
from saif.cli.output import console, plain, print_json

if TYPE_CHECKING:
    from saif.runtime.at_hand import AtHand


def add_to(app: typer.Typer) -> None:
    app.command()(models)


@dataclass(frozen=True, slots=True)
class ModelRow:
    """at_hand: where the weights lie on this machine, None if they would have to be fetched."""

    name: str
    id: str
    at_hand: "AtHand | None"
    presets: list[str]


def models(presets: PresetsOption = None, json: JsonOption = False) -> None:
    """List known models: where their weights are, and their presets."""
    rows = list(_rows(presets))
    if json:
        print_json({"models": [asdict(row) for row in rows]})
        return
    words = {
        "converted": "ready",
        "package": "installed; the first use converts them",
        "hub cache": "in the hub's cache",
        None: "fetched from the hub at the first use",
    }
    table = Table("Name", Column("Id", overflow="fold"), "Weights", "Presets", box=SIMPLE_HEAD)
    for row in rows:
        table.add_row(plain(row.name), plain(row.id), words[row.at_hand], str(len(row.presets)))
    screen = console()
    screen.print(table)
    screen.print("A hub id or a local folder works too, wherever a model is named.", style="dim")


def _rows(presets: Path | None) -> Iterator[ModelRow]:
    from saif.cli.presets import scan
    from saif.runtime.at_hand import at_hand
    from saif.runtime.load import KNOWN

    cards = [entry.card for entry in scan(open_library(presets)) if entry.card is not None]
    names = {model_id: name for name, model_id in KNOWN.items()}
    for model_id in [*names, *sorted({card.model.id for card in cards} - set(names))]:
        ids = sorted(card.id for card in cards if card.model.id == model_id)
        yield ModelRow(names.get(model_id, model_id), model_id, at_hand(model_id), ids)
