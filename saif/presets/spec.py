"""A push: where, with what and how hard to steer; and the steering it makes of a preset's vectors.

The panel, the calibration and the baselines all go through here, so that what was scored is what
is shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.core.types import ADDED, Placement, Schedule, Selection, Span, StrengthRule
from saif.errors import InputError, PresetError
from saif.presets.preset import Choice, LoadedPreset, MeanDifferenceChoice

if TYPE_CHECKING:
    from torch import Tensor

    from saif.core.steering import LatentReader, Steering


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentPush:
    """Latents as a way to steer: how they are chosen, weighed and how many."""

    selection: Selection
    rule: StrengthRule
    k: int
    beta: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringSpec:
    """`latents` None is the mean difference. dose: of all layers together; each gets its share."""

    layers: tuple[int, ...]
    dose: float
    latents: LatentPush | None
    shape: Schedule = ADDED

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise InputError("A push needs at least one layer, and each only once.")
        if self.shape.clamp and self.latents is None:
            raise InputError("Only latents can be clamped, not the mean difference.")

    @property
    def dose_per_layer(self) -> float:
        return self.dose / len(self.layers)


def choice_push(choice: Choice) -> SteeringSpec:
    """A preset's calibrated choice as a push."""
    return SteeringSpec(
        layers=(choice.layer, *choice.also),
        dose=choice.dose,
        latents=LatentPush(
            selection=choice.selection, rule=choice.rule, k=choice.k, beta=choice.beta
        ),
        shape=Schedule(half_life=choice.half_life, keep_norm=choice.keep_norm, clamp=choice.clamp),
    )


def mean_difference_push(choice: MeanDifferenceChoice) -> SteeringSpec:
    """The calibrated mean difference as a push."""
    shape = Schedule(half_life=choice.half_life, keep_norm=choice.keep_norm)
    return SteeringSpec(layers=(choice.layer,), dose=choice.dose, latents=None, shape=shape)


def steering_for(
    preset: LoadedPreset,
    placement: Placement,
    push: SteeringSpec,
    *,
    span: Span = "response",
    strength: float = 1.0,
) -> "Steering":
    """The push as a steering, `strength` times as long. Raises PresetError if a layer's direction
    is zero."""
    from saif.core.selection import direction

    raw: dict[int, Tensor] = {}
    for layer in push.layers:
        if push.latents is None:
            raw[layer] = preset.vectors[layer].mean_difference[placement].float()
        else:
            raw[layer] = direction(
                preset.statistics(placement, layer),
                preset.decoder_rows(placement, layer),
                selection=push.latents.selection,
                rule=push.latents.rule,
                k=push.latents.k,
                beta=push.latents.beta,
            )
    clamped = {
        layer: _reader(preset, placement, layer, push.latents, min(strength, 1.0))
        for layer in push.layers
        if push.shape.clamp and push.latents is not None
    }
    dose = strength * push.dose_per_layer
    return steering_along(
        preset, placement, raw, dose, span=span, shape=push.shape, clamped=clamped
    )


def steering_along(
    preset: LoadedPreset,
    placement: Placement,
    directions: "Mapping[int, Tensor]",
    dose: float,
    *,
    span: Span = "response",
    shape: Schedule = ADDED,
    clamped: "Mapping[int, LatentReader] | None" = None,
) -> "Steering":
    """Any directions, layer -> (d_model,), each rescaled to `dose`."""
    from saif.core.selection import at_dose
    from saif.core.steering import Steering

    scaled = {}
    for layer, raw in directions.items():
        norm = preset.preset.placements[placement].table(layer).residual_norm
        scaled[layer] = at_dose(raw, dose, norm)
        if not bool(scaled[layer].any()):
            raise PresetError(
                f"The preset '{preset.id}' has no direction at layer {layer}.",
                hint="Choose another layer or more latents.",
            )
    return Steering(
        scaled,
        span,
        dict.fromkeys(scaled, dose),
        half_life=shape.half_life,
        keep_norm=shape.keep_norm,
        clamped=clamped or {},
    )


def _reader(
    preset: LoadedPreset, placement: Placement, layer: int, latents: LatentPush, share: float
) -> "LatentReader":
    """Reads the push's latents; what they write is scaled by `share`, so that half a strength
    also takes only half of them away."""
    from saif.core.selection import rank
    from saif.core.steering import LatentReader

    statistics = preset.statistics(placement, layer)
    ids = statistics.ids[rank(statistics, latents.selection)[: latents.k]].tolist()
    vectors = preset.vectors[layer]
    rows = vectors.rows_of(ids)
    return LatentReader(
        encoder=vectors.encoder[rows].float(),
        bias=vectors.bias[rows].float(),
        threshold=vectors.threshold[rows].float(),
        decoder=share * vectors.decoder[rows].float(),
    )
