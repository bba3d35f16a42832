"""The shipped presets steer as they always have: figures of their vectors, taken once.

`shipped_steerings.json` was written before specs, controls and steerings were what they are now.
It is made anew only with presets that are: `python tests/presets/test_shipped_steerings.py`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from saif.core.steering import Steering
from saif.core.types import PLACEMENTS
from saif.experiments.baselines import Condition, Subject, steering_of
from saif.presets.library import Library

MODEL = "smollm2-135m-instruct"
FIGURES = Path(__file__).with_name("shipped_steerings.json")
CONTROLS: dict[str, dict[str, Any]] = {
    "calibrated": {},
    "half strength, all": {"strength": 0.5, "span": "all"},
    "three latents": {"k": 3, "strength": 2.0},
    "layer 14": {"layer": 14},
    "64 latents at layer 29": {"layer": 29, "k": 64, "span": "prompt"},
    "off": {"strength": 0},
}
CONDITIONS: tuple[Condition, ...] = ("mean-difference", "saif", "single-latent")
PRESETS = Library().preset_ids(MODEL)


def figures_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    library = Library()
    preset, instruction = library.preset(MODEL, name), library.instruction(name)
    for placement in PLACEMENTS:
        for title, controls in CONTROLS.items():
            steering = preset.steering(placement, **controls)
            applied = {
                "layers": list(steering.layers),
                "k": steering.k,
                "strength": steering.strength,
                "dose": steering.total_dose,
                "latents": list(steering.latents[steering.layers[0]]),
                "shape": str(steering.schedule),
            }
            more = {} if steering.off else _figures(steering)
            yield f"{name}/{placement}/{title}", {**more, "applied": applied}
        subject = Subject(preset=preset, instruction=instruction, placement=placement)
        for condition in CONDITIONS:
            steering_or_none = steering_of(condition, subject)
            assert steering_or_none is not None
            yield f"{name}/{placement}/{condition}", _figures(steering_or_none)


def _figures(steering: Steering) -> dict[str, Any]:
    """Length and product with a fixed vector of every direction, and of what a clamp takes away
    from fixed residuals."""
    probe = torch.randn(576, generator=torch.Generator().manual_seed(0))
    found: dict[str, Any] = {
        "span": steering.span,
        "dose": {str(layer): dose for layer, dose in steering.dose.items()},
        "half_life": steering.schedule.half_life,
        "keep_norm": steering.schedule.keep_norm,
        "direction": {
            str(layer): _short([v.norm(), v @ probe]) for layer, v in steering.directions.items()
        },
    }
    if steering.clamped:
        resid = 30 * torch.randn(4, 576, generator=torch.Generator().manual_seed(1))
        found["clamped"] = {
            str(layer): _short(list(encoder.contribution(resid) @ probe))
            for layer, encoder in steering.clamped.items()
        }
    return found


def _short(values: list[torch.Tensor]) -> list[float]:
    return [float(f"{float(value):.7g}") for value in values]


@pytest.mark.parametrize("name", PRESETS)
def test_a_shipped_preset_steers_as_it_always_has(name: str) -> None:
    expected = json.loads(FIGURES.read_text())
    found = dict(figures_of(name))
    assert set(found) == {key for key in expected if key.startswith(f"{name}/")}
    for key, figures in found.items():
        assert _numbers_apart(figures) == _numbers_apart(expected[key]), key
        for part in ("direction", "clamped"):
            for layer, values in figures.get(part, {}).items():
                assert values == pytest.approx(expected[key][part][layer], rel=1e-4, abs=1e-3), key


def _numbers_apart(figures: dict[str, Any]) -> dict[str, Any]:
    """All that has to be exact: sums in another order may differ in their last digits."""
    sums = ("direction", "clamped")
    exact = {name: value for name, value in figures.items() if name not in sums}
    return {**exact, "steered": [sorted(figures.get(name, {})) for name in sums]}


if __name__ == "__main__":
    found = [pair for name in PRESETS for pair in figures_of(name)]
    lines = [f" {json.dumps(key)}: {json.dumps(figures)}" for key, figures in found]
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
