"""Made-up texts, and an SAE and readings whose instruction latents are known."""

import gzip
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import TypeAdapter
from tiny import D_MODEL
from torch import Tensor

from saif.core.types import PLACEMENTS, Placement, Site
from saif.engine.local import LocalEngine
from saif.experiments.identify import Activations, build_presets
from saif.presets.instructions import Instruction
from saif.presets.library import Library
from saif.presets.preset import LoadedPreset
from saif.presets.spec import SteeringSpec
from saif.runtime.sae import Sae

_NOUNS = ("cat", "farmer", "teacher", "river", "engine", "doctor", "garden", "child", "bird")
_VERBS = ("watches", "paints", "follows", "forgets", "repairs", "visits", "counts", "hears")
_TIMES = ("morning", "evening", "winter", "week")


def sentences() -> list[str]:
    """A few hundred different sentences of seven words."""
    combinations = itertools.product(_NOUNS, _VERBS, _NOUNS, _TIMES)
    return [f"The {a} {verb} the {b} every {time}." for a, verb, b, time in combinations]


def write_data(folder: Path) -> Path:
    """Sentence pairs and stories in the files that `read_contents` expects."""
    folder.mkdir(parents=True, exist_ok=True)
    english = sentences()
    pairs = "".join(f"{text}\tVoici la phrase {i}.\n" for i, text in enumerate(english))
    (folder / "pairs.tsv.gz").write_bytes(gzip.compress(pairs.encode()))
    stories = [
        json.dumps({"pages": [" ".join(english[i + j : i + j + 3]) for j in range(0, 12, 3)]})
        for i in range(0, len(english) - 12, 12)
    ]
    stories.append(
        json.dumps({"pages": [" ".join(english[i : i + 20]) for i in range(0, 200, 20)]})
    )
    (folder / "stories.jsonl.gz").write_bytes(gzip.compress("\n".join(stories).encode()))
    return folder


def instructions(*names: str) -> list[Instruction]:
    return [Library().instruction(name) for name in names]


# An SAE whose latents are known

RISING, FALLING, ANY, OTHER = 0, 1, 2, 3
"""Latents: risen by our instruction, switched off by it, risen by every instruction, risen by the
first of the others."""
CONTENT = range(4, 20)
"""Latents that read the content and nothing else."""
D_SAE = 160
RISE, FALL, EVERY = 2.0, 3.0, 5.0


@dataclass
class FakeWeights:
    """What `Sae` needs of a sae-lens SAE: ReLU(z W_enc + b_enc) and W_dec."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    asked: list[list[int]] = field(default_factory=list)

    @property
    def cfg(self) -> SimpleNamespace:
        d_in, d_sae = self.W_enc.shape
        return SimpleNamespace(d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=False)

    def encode(self, z: Tensor) -> Tensor:
        return (z @ self.W_enc + self.b_enc).relu()

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.W_dec + self.b_dec


def planted_sae(layer: int, d_model: int = D_MODEL) -> Sae:
    """Latent j < d_model reads axis j of the residual; the rest read faint noise."""
    generator = torch.Generator().manual_seed(layer)
    encoder = 1e-3 * torch.randn(d_model, D_SAE, generator=generator)
    encoder[:, :d_model] = torch.eye(d_model)
    decoder = torch.randn(D_SAE, d_model, generator=generator)
    decoder[:d_model] = torch.eye(d_model)
    weights = FakeWeights(encoder, decoder, torch.zeros(D_SAE), torch.zeros(d_model))
    return Sae(f"made-up/{layer}", "0" * 64, Site(layer), weights)


def axis(latent: int) -> Tensor:
    return torch.eye(D_MODEL)[latent]


def planted_readings(layers: tuple[int, ...] = (1, 3), n: int = 12) -> Activations:
    """`question` is the planted instruction; `bullet-list` and `verse` are the others."""
    generator = torch.Generator().manual_seed(7)
    content = torch.zeros(n, D_MODEL)
    content[:, list(CONTENT)] = 1 + 4 * torch.rand(n, len(CONTENT), generator=generator)
    plain = content + FALL * axis(FALLING)
    ours = content + RISE * axis(RISING) + EVERY * axis(ANY)
    first = plain + 4 * axis(OTHER) + EVERY * axis(ANY)
    second = plain + EVERY * axis(ANY)
    given = {"question": ours, "bullet-list": first, "verse": second}
    return Activations(
        kinds=dict.fromkeys(given, "sentence"),
        plain={"sentence": dict.fromkeys(layers, plain)},
        instructed={
            (name, placement): dict.fromkeys(layers, residuals)
            for name, residuals in given.items()
            for placement in PLACEMENTS
        },
    )


def planted_preset(engine: LocalEngine, layers: tuple[int, ...] = (1, 3)) -> LoadedPreset:
    """What identifying the planted latents must give, for `question`."""
    readings = planted_readings(layers)
    (preset,) = build_presets(engine, instructions("question"), readings, planted_sae, layers)
    return preset


def with_choice(preset: LoadedPreset, placement: Placement, **values: Any) -> LoadedPreset:
    """The preset with another calibrated choice; values are named as in its file."""
    part = preset.preset.placements[placement]
    choice = TypeAdapter(SteeringSpec).validate_json(json.dumps({**part.choice.flat(), **values}))
    return preset.with_part(placement, choice=choice)
