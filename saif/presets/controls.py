"""From a preset and the panel's controls to a steering that the engine can add."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from saif.core.types import ADDED, PLACEMENTS, SPANS, Placement, Schedule, Span
from saif.errors import InputError, PresetError
from saif.presets.preset import MAX_STORED_LATENTS, LoadedPreset, ModelRef
from saif.presets.spec import choice_push, steering_for

if TYPE_CHECKING:
    from saif.core.steering import Steering

MAX_STRENGTH = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What a person may set. None means the calibrated value; strength 1 is the calibrated dose
    and strength 0 is off."""

    placement: Placement = "post"
    strength: float = 1.0
    k: int | None = None
    layer: int | None = None
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What was really asked of the engine, for the line under a steered reply. latents: those of
    the first layer. dose: of all layers together."""

    layers: tuple[int, ...]
    k: int
    strength: float
    dose: float
    span: Span
    latents: tuple[int, ...]
    shape: Schedule = ADDED

    @property
    def where(self) -> str:
        """ "layer 24", or "layers 18 + 24"."""
        return f"layer{'s' * (len(self.layers) > 1)} {' + '.join(map(str, self.layers))}"

    @property
    def layer(self) -> int:
        return self.layers[0]


def check_model(preset: LoadedPreset, model: ModelRef) -> None:
    """Raise PresetError unless the preset was made for this very model."""
    made_for = preset.preset.model
    if made_for.id != model.id or made_for.fingerprint != model.fingerprint:
        same_name = " (same name, other weights)" if made_for.id == model.id else ""
        raise PresetError(
            f"The preset '{preset.id}' was made for {made_for.id}, not for {model.id}{same_name}.",
            hint="Latents of one model mean nothing in another; choose a preset of this model.",
        )


def steer(preset: LoadedPreset, controls: Controls) -> "tuple[Steering | None, Applied]":
    """The steering these controls ask for; None at strength 0, which edits nothing.

    The direction Σ α_j W_dec[j] is rescaled to strength × the calibrated dose, so the strength
    means the same whatever k and layer are. A layer other than the calibrated one is steered
    alone. Raises InputError on a control out of range.
    """
    from saif.core.selection import rank

    if controls.placement not in PLACEMENTS:
        raise InputError(
            f"'{controls.placement}' is not a placement.",
            hint=f"Choose from {', '.join(PLACEMENTS)}.",
        )
    part = preset.preset.placements[controls.placement]
    choice = part.choice
    push = choice_push(choice)
    layers = push.layers if controls.layer in (None, choice.layer) else (controls.layer,)
    layer = layers[0]
    k = choice.k if controls.k is None else controls.k
    span = controls.span or choice.span
    _check(controls, part.layer_numbers, layer, k, span)
    statistics = preset.statistics(controls.placement, layer)
    top = rank(statistics, choice.selection)[:k]
    dose = controls.strength * choice.dose
    latents = tuple(statistics.ids[top].tolist())
    applied = Applied(layers, len(latents), controls.strength, dose, span, latents, push.shape)
    if controls.strength == 0:
        return None, applied
    assert push.latents is not None
    push = replace(push, layers=layers, latents=replace(push.latents, k=k))
    steering = steering_for(preset, controls.placement, push, span=span, strength=controls.strength)
    return steering, applied


def _check(controls: Controls, layers: list[int], layer: int, k: int, span: Span) -> None:
    if not 0 <= controls.strength <= MAX_STRENGTH:
        raise InputError(
            f"strength must lie between 0 and {MAX_STRENGTH:g}, not {controls.strength}.",
            hint="1 is the calibrated strength.",
        )
    if layer not in layers:
        raise InputError(
            f"There is no SAE at layer {layer} for this preset.",
            hint=f"Layers with one: {', '.join(map(str, layers))}.",
        )
    if not 1 <= k <= MAX_STORED_LATENTS:
        raise InputError(f"k must lie between 1 and {MAX_STORED_LATENTS}, not {k}.")
    if span not in SPANS:
        raise InputError(f"'{span}' is not a span.", hint=f"Choose from {', '.join(SPANS)}.")
