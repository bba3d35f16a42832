"""`models`: which models are known, what they need, and which can be used right away."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from saif.cli.options import JsonOption, PresetsOption, open_library
from saif.cli.output import console, plain, print_json
from saif.errors import ModelError

if TYPE_CHECKING:
    from saif.runtime.catalog import KnownModel
    from saif.runtime.load import LocalSource

_WHERE = {
    "converted": "ready",
    "package": "installed",
    "hub cache": "on disk",
    None: "on hub",
}


@dataclass(frozen=True, slots=True)
class ModelRow:
    """source: where the weights lie on this machine, None if they would have to be fetched.
    entry: None for a model that only has presets here."""

    id: str
    source: "LocalSource | None"
    presets: list[str]
    entry: "KnownModel | None"

    @property
    def name(self) -> str:
        return self.entry.name if self.entry else self.id

    def as_json(self) -> dict[str, Any]:
        entry = self.entry
        known = {
            "name": self.name,
            "id": self.id,
            "at_hand": self.source,
            "presets": self.presets,
        }
        return (
            known
            if entry is None
            else known
            | {
                "revision": entry.revision,
                "n_layers": entry.n_layers,
                "chat": entry.chat,
                "gated": entry.gated,
                "memory_gb": entry.gigabytes,
                "last_layer_has_sae": entry.last_layer_has_sae,
                "saes": [
                    {
                        "release": saes.release or None,
                        "ids": saes.ids,
                        "layers": list(saes.layers),
                        "width": saes.width,
                        "of_base_model": saes.base,
                    }
                    for saes in entry.saes
                ],
            }
        )


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only this one, with its SAEs.")
    ] = None,
    presets: PresetsOption = None,
    json: JsonOption = False,
) -> None:
    """List known models: what they need, their SAEs, where their weights are, their presets."""
    rows = list(_rows(presets))
    if name is not None:
        rows = [row for row in rows if name.lower() in (row.name.lower(), row.id.lower())]
        if not rows:
            raise ModelError(
                f"There is no known model '{name}'.",
                hint="`python -m saif models` lists them; hub ids and folders work as well.",
            )
    if json:
        print_json({"models": [row.as_json() for row in rows]})
    elif name is not None:
        _show(rows[0])
    else:
        _list(rows)


def _list(rows: list[ModelRow]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("Name", "Kind", "SAEs", "16, 8, 4-bit GB", "Weights", "Presets"):
        table.add_column(head, justify="right" if "GB" in head else "left", no_wrap=True)
    for row in rows:
        kind = saes = sizes = ""
        if row.entry is not None:
            kind = ("chat" if row.entry.chat else "base") + (" gated" if row.entry.gated else "")
            saes = f"{len(row.entry.saes[0].layers)} of {row.entry.n_layers}"
            sizes = "  ".join(map(str, row.entry.gigabytes.values()))
        presets = str(len(row.presets) or "")
        table.add_row(plain(row.name), kind, saes, sizes, _WHERE[row.source], presets)
    screen = console()
    screen.print(table)
    screen.print(
        "SAEs: at how many of the layers. A hub id or a local folder works too, wherever a model "
        "is named. `models NAME` shows one.",
        style="dim",
    )


def _show(row: ModelRow) -> None:
    screen = console()
    screen.print(plain(f"{row.name} ({row.id})"), style="bold")
    screen.print(f"Weights: {_WHERE[row.source]}.")
    screen.print(plain(f"Presets: {', '.join(row.presets) or 'none yet'}."))
    entry = row.entry
    if entry is None:
        return
    kind = "Trained to chat." if entry.chat else "A base model: it gets a plain-text template."
    screen.print(kind + (" Its licence has to be accepted on the hub." if entry.gated else ""))
    sizes = entry.gigabytes.values()
    screen.print("Memory for the weights: {} GB, {} GB in 8 bits, {} GB in 4.".format(*sizes))
    table = Table(
        Column("SAEs", overflow="fold"), "Width", "Layers", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for saes in entry.saes:
        note = " (of the base model)" if saes.base else ""
        source = f"{saes.release}/{saes.ids}" if saes.release else "ship with the presets"
        every = len(saes.layers) == entry.n_layers
        layers = "every one" if every else ", ".join(map(str, saes.layers))
        table.add_row(plain(source + note), saes.width, layers)
    screen.print(table)
    if not entry.last_layer_has_sae:
        screen.print(f"The last layer ({entry.n_layers - 1}) has none.")


def _rows(presets: Path | None) -> Iterator[ModelRow]:
    from saif.cli.presets import scan
    from saif.runtime import catalog
    from saif.runtime.load import local_source

    cards, _ = scan(open_library(presets))
    ids = [model.id for model in catalog.MODELS]
    for model_id in [*ids, *sorted({card.model.id for card in cards} - set(ids))]:
        own = sorted(card.id for card in cards if card.model.id == model_id)
        yield ModelRow(model_id, local_source(model_id), own, catalog.known(model_id))
