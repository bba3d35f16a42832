"""The models that are known by name, and the SAEs that exist for each; importing it is free.

They are listed in `models.csv` and `saes.csv`. Counts of parameters are those of the published
weights, in billions; sizes in memory follow from them. The SAEs are named as in sae-lens' registry,
which a test holds them against; those without a release ship with the presets.
"""

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"

Quantize = Literal["none", "int8", "4bit"]

# NF4 whose scales are quantized as well takes 4.13 bits.
QUANTIZED_BYTES: dict[Quantize, float] = {"int8": 1.0, "4bit": 0.516}

_YES = {"yes": True, "no": False}

_DEPTHS = (0.5, 0.62, 0.82, 1.0)  # where instructions have been found, as a share of the blocks


@dataclass(frozen=True, slots=True)
class Size:
    """How many weights a model has. linear: in matrices that a quantizer makes smaller; other: the
    rest, the embedding above all."""

    linear: int
    other: int

    def bytes(self, quantize: Quantize, per_weight: int = 2) -> float:
        """In memory, with `per_weight` bytes for each weight that isn't quantized."""
        return self.other * per_weight + self.linear * QUANTIZED_BYTES.get(quantize, per_weight)


@dataclass(frozen=True, slots=True)
class Saes:
    """One release of SAEs of the residual stream after blocks `layers`.

    release: in sae-lens' registry, or "" for those that ship with the presets. ids: with {layer}.
    base: trained on the base model, not on this one.
    """

    release: str
    ids: str
    layers: tuple[int, ...]
    width: str
    base: bool = False

    def source(self, layer: int) -> str:
        """RELEASE/ID, as `--sae` takes it."""
        return f"{self.release}/{self.ids.format(layer=layer)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model as it is published.

    parameters, embedding: in billions; the embedding (and the output matrix, where it is a second
    one) is never quantized. gated: its licence has to be accepted on the hub first. chat: trained
    to answer; a base model gets a plain-text template.
    """

    name: str
    id: str
    revision: str = "main"
    n_layers: int
    parameters: float
    embedding: float
    chat: bool
    gated: bool = False
    saes: tuple[Saes, ...] = ()

    @property
    def size(self) -> Size:
        billion = 1_000_000_000
        linear, other = self.parameters - self.embedding, self.embedding
        return Size(round(linear * billion), round(other * billion))

    @property
    def gigabytes(self) -> dict[Quantize, float]:
        """What the weights take in memory: in full, in 8 bits, in 4."""
        return {way: round(self.size.bytes(way) / 1e9, 1) for way in get_args(Quantize)}

    @property
    def last_layer_has_sae(self) -> bool:
        return any(self.n_layers - 1 in saes.layers for saes in self.saes)

    def default_saes(self) -> list[str]:
        """The SAEs that presets are made with unless others are named: of the first release, at
        the layers nearest to half, three fifths, four fifths and all of the depth."""
        if not self.saes or not self.saes[0].release:
            return []
        return [self.saes[0].source(layer) for layer in self.default_layers()]

    def default_layers(self) -> list[int]:
        layers = self.saes[0].layers
        wanted = [share * (self.n_layers - 1) for share in _DEPTHS]
        return sorted({min(layers, key=lambda layer: abs(layer - depth)) for depth in wanted})


def _rows(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _layers(text: str) -> tuple[int, ...]:
    """Layers as the table has them: "0-25", or "14 18 24 29"."""
    ends = [[int(end) for end in part.split("-")] for part in text.split()]
    return tuple(layer for end in ends for layer in range(end[0], end[-1] + 1))


def _known_models() -> Iterator[KnownModel]:
    saes = defaultdict(list)
    for row in _rows("saes.csv"):
        base = _YES[row["base"]]
        layers = _layers(row["layers"])
        saes[row["model"]].append(Saes(row["release"], row["ids"], layers, row["width"], base))
    for row in _rows("models.csv"):
        yield KnownModel(
            name=row["name"],
            id=row["id"],
            n_layers=int(row["n_layers"]),
            parameters=float(row["parameters"]),
            embedding=float(row["embedding"]),
            chat=_YES[row["chat"]],
            gated=_YES[row["gated"]],
            saes=tuple(saes.pop(row["name"], ())),
        )
    if saes:
        raise ValueError(f"saes.csv: {', '.join(saes)}: no such model in models.csv")


MODELS: tuple[KnownModel, ...] = tuple(_known_models())
_BY_NAME = {model.name: model for model in MODELS}
_BY_ID = {model.id.lower(): model for model in MODELS}


def known(name_or_id: str) -> KnownModel | None:
    """The model with this name or hub id, in any case; None if it isn't known."""
    lower = name_or_id.lower()
    return _BY_NAME.get(lower) or _BY_ID.get(lower)
