"""The conditions that are compared: the preset's steering, and the honest baselines beside it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from saif.core.steering import Steering, weighted_sum
from saif.core.types import Placement
from saif.errors import InputError, PresetError
from saif.presets.instructions import Instruction, place
from saif.presets.preset import LoadedPreset
from saif.presets.spec import LatentSource, SteeringSpec
from saif.runtime.sae import Sae

Condition = Literal[
    "unsteered",
    "steered",
    "prompted",
    "mean-difference",
    "random",
    "single-latent",
    "saif",
    "wrong-instruction",
    "steered-suffix",
    "prompted-suffix",
]
"""steered: the calibrated preset. mean-difference: at its own best setting. random: as many random
latents at the same dose. single-latent: the best one alone at the same dose. saif: the paper's
plain recipe, k = 15 by sensitivity with α = μ at the last layer with an SAE, at strength 1.
wrong-instruction: another preset's steering, judged by this one's check. steered-suffix and
prompted-suffix: with a neutral sentence at the end of the message, so that instruction and content
never end it."""

ALL_CONDITIONS: tuple[Condition, ...] = get_args(Condition)
CONDITIONS = ALL_CONDITIONS[:7]
"""What every preset's scores hold."""

NEUTRAL_SUFFIX = "Thank you."


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A preset under test at one placement."""

    preset: LoadedPreset
    instruction: Instruction
    placement: Placement
    other: LoadedPreset | None = None
    """The preset that wrong-instruction takes."""
    load: Callable[[int], Sae] | None = None
    """Gives the SAE of a layer, for random latents."""
    seed: int = 0
    """Of the random latents."""

    @property
    def bound(self) -> float:
        """The perplexity bound that calibration derived. Raises PresetError without one."""
        scores = self.preset.preset.placements[self.placement].scores
        if scores is None:
            raise _uncalibrated(self.preset)
        return scores.perplexity_bound


def _uncalibrated(preset: LoadedPreset) -> PresetError:
    return PresetError(
        f"The preset '{preset.id}' is not calibrated.",
        hint="Run `python -m saif calibrate` first.",
    )


def message_for(condition: Condition, subject: Subject, content: str) -> str:
    """What the model is sent under this condition."""
    text = content
    if condition.startswith("prompted"):
        text = place(subject.instruction.main_wording, content, subject.placement)
    return f"{text}\n{NEUTRAL_SUFFIX}" if condition.endswith("-suffix") else text


def spec_for(condition: Condition, subject: Subject) -> SteeringSpec | None:
    """What steers under this condition; None where nothing does. For random latents, the spec
    whose layers, number and dose they copy.

    Raises PresetError if calibration is missing, InputError if the other preset is.
    """
    preset = subject.preset
    part = preset.preset.placements[subject.placement]
    if condition in ("unsteered", "prompted", "prompted-suffix"):
        return None
    if condition == "mean-difference":
        if part.mean_difference is None:
            raise _uncalibrated(preset)
        return part.mean_difference
    if condition == "saif":
        return plain_saif(preset, subject.placement)
    if condition == "wrong-instruction":
        return _other(subject).preset.placements[subject.placement].choice
    if condition == "single-latent":
        return replace(part.choice, latents=replace(part.latents, k=1))
    return part.choice


def steering_of(condition: Condition, subject: Subject) -> Steering | None:
    """The steering of a condition; None where nothing is steered. Raises as `spec_for` does."""
    spec = spec_for(condition, subject)
    if spec is None:
        return None
    if condition == "random":
        return random_latents(subject, spec)
    preset = _other(subject) if condition == "wrong-instruction" else subject.preset
    return preset.assemble(subject.placement, spec)


def _other(subject: Subject) -> LoadedPreset:
    if subject.other is None:
        raise InputError(
            f"There is no other preset to take for '{subject.preset.id}'.",
            hint="wrong-instruction needs a second preset with the same kind of contents.",
        )
    return subject.other


def random_latents(subject: Subject, spec: SteeringSpec) -> Steering:
    """As many latents as the spec has, drawn at random, with its coefficients, dose and schedule;
    added even where the spec clamps, because its own latents are no part of this."""
    assert spec.latents is not None
    assert subject.load is not None
    preset, placement = subject.preset, subject.placement
    generator = torch.Generator().manual_seed(subject.seed)
    raw = {}
    for layer in spec.layers:
        sae = subject.load(layer)
        weights = preset.select(placement, layer, spec.latents).coefficients
        ids = torch.randperm(sae.d_sae, generator=generator)[: len(weights)]
        raw[layer] = weighted_sum(sae.decoder(ids), weights)
    added = replace(spec, schedule=replace(spec.schedule, clamp=False))
    return preset.scaled(placement, raw, added)


def plain_saif(preset: LoadedPreset, placement: Placement) -> SteeringSpec:
    """Σ μ_j W_dec[j] over the 15 most sensitive latents of the last layer, at its own length.
    Raises PresetError if that is zero."""
    part = preset.preset.placements[placement]
    layer = max(part.layer_numbers)
    latents = LatentSource(selection="saif", rule="mean", k=15)
    length = float(preset.select(placement, layer, latents).direction.norm())
    if not length:
        raise preset.no_direction(layer)
    dose = length / part.table(layer).residual_norm
    return SteeringSpec(layer=layer, dose=dose, latents=latents)
