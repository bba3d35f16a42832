"""The conditions that are compared: the preset's steering, and the honest baselines beside it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from saif.core.selection import direction, rank, strengths
from saif.core.steering import Steering, weighted_sum
from saif.core.types import Placement
from saif.errors import InputError, PresetError
from saif.presets.instructions import Instruction, place
from saif.presets.preset import LoadedPreset
from saif.presets.spec import (
    LatentPush,
    SteeringSpec,
    choice_push,
    mean_difference_push,
    steering_along,
    steering_for,
)
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
SAIF_K = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A preset under test at one placement. other: the preset that wrong-instruction takes. load:
    gives the SAE of a layer, for random latents; seed is theirs."""

    preset: LoadedPreset
    instruction: Instruction
    placement: Placement
    other: LoadedPreset | None = None
    load: Callable[[int], Sae] | None = None
    seed: int = 0


def message_for(condition: Condition, subject: Subject, content: str) -> str:
    """What the model is sent under this condition."""
    text = content
    if condition.startswith("prompted"):
        text = place(subject.instruction.main_wording, content, subject.placement)
    return f"{text}\n{NEUTRAL_SUFFIX}" if condition.endswith("-suffix") else text


def push_for(condition: Condition, subject: Subject) -> SteeringSpec | None:
    """What steers under this condition; None where nothing does. For random latents, the push
    whose layers, number and dose they copy. Raises PresetError if calibration is missing."""
    preset = subject.preset
    part = preset.preset.placements[subject.placement]
    if condition in ("unsteered", "prompted", "prompted-suffix"):
        return None
    if condition == "mean-difference":
        if part.mean_difference is None:
            raise PresetError(
                f"The preset '{preset.id}' is not calibrated.",
                hint="Run `python -m saif calibrate` first.",
            )
        return mean_difference_push(part.mean_difference)
    if condition == "saif":
        return plain_saif(preset, subject.placement)
    if condition == "wrong-instruction":
        return choice_push(_other(subject).preset.placements[subject.placement].choice)
    push = choice_push(part.choice)
    if condition == "single-latent":
        assert push.latents is not None
        return replace(push, latents=replace(push.latents, k=1))
    return push


def steering_of(condition: Condition, subject: Subject) -> Steering | None:
    """The steering of a condition, with span `response`; None where nothing is steered."""
    push = push_for(condition, subject)
    if push is None:
        return None
    if condition == "random":
        return random_latents(subject, push)
    preset = _other(subject) if condition == "wrong-instruction" else subject.preset
    return steering_for(preset, subject.placement, push)


def _other(subject: Subject) -> LoadedPreset:
    if subject.other is None:
        raise InputError(
            f"There is no other preset to take for '{subject.preset.id}'.",
            hint="wrong-instruction needs a second preset with the same kind of contents.",
        )
    return subject.other


def random_latents(subject: Subject, push: SteeringSpec) -> Steering:
    """As many latents as the push has, drawn at random, with its strengths, dose and shape."""
    assert push.latents is not None
    assert subject.load is not None
    preset, placement = subject.preset, subject.placement
    generator = torch.Generator().manual_seed(subject.seed)
    raw = {}
    for layer in push.layers:
        sae = subject.load(layer)
        statistics = preset.statistics(placement, layer)
        top = rank(statistics, push.latents.selection)[: push.latents.k]
        ids = torch.randperm(sae.d_sae, generator=generator)[: len(top)]
        weights = strengths(statistics.take(top), push.latents.rule, push.latents.beta)
        raw[layer] = weighted_sum(sae.decoder(ids), weights)
    # Only latents that were read can be clamped; random ones are added, at the same length.
    return steering_along(preset, placement, raw, push.dose_per_layer, shape=push.shape)


def plain_saif(preset: LoadedPreset, placement: Placement) -> SteeringSpec:
    """Σ μ_j W_dec[j] over the 15 most sensitive latents of the last layer, at its own length."""
    layer = max(preset.preset.placements[placement].layer_numbers)
    latents = LatentPush(selection="saif", rule="mean", k=SAIF_K)
    raw = direction(
        preset.statistics(placement, layer),
        preset.decoder_rows(placement, layer),
        selection=latents.selection,
        rule=latents.rule,
        k=latents.k,
    )
    norm = preset.preset.placements[placement].table(layer).residual_norm
    return SteeringSpec(layers=(layer,), dose=float(raw.norm()) / norm, latents=latents)
