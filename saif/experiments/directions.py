"""The directions that are compared: the preset's, and the honest baselines beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from saif.core.selection import at_dose, direction, rank, strengths
from saif.core.spec import Placement, Selection, StrengthRule
from saif.core.steering import Steering, weighted_sum
from saif.presets.preset import Choice, LoadedPreset
from saif.runtime.sae import Sae

Condition = Literal[
    "unsteered", "steered", "prompted", "mean-difference", "random", "single-latent", "saif"
]
"""steered: the calibrated preset. random: as many random latents at the same dose. single-latent:
the best one alone at the same dose. saif: the paper's plain recipe, k = 15 by sensitivity with
α = μ at the last layer with an SAE, at strength 1."""

CONDITIONS: tuple[Condition, ...] = get_args(Condition)
SAIF_K = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentPush:
    """Latents as a way to steer: how they are chosen, weighed and how many."""

    selection: Selection
    rule: StrengthRule
    k: int
    beta: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A candidate: where, what and how hard. `latents` None is the mean difference."""

    layer: int
    dose: float
    latents: LatentPush | None


def steering_for(preset: LoadedPreset, placement: Placement, push: Push) -> Steering:
    """The push as a steering with span `response`."""
    if push.latents is None:
        raw = preset.vectors[push.layer].mean_difference[placement].float()
    else:
        raw = direction(
            preset.statistics(placement, push.layer),
            preset.decoder_rows(placement, push.layer),
            selection=push.latents.selection,
            rule=push.latents.rule,
            k=push.latents.k,
            beta=push.latents.beta,
        )
    return _steering(preset, placement, push.layer, raw, push.dose)


def choice_push(choice: Choice) -> Push:
    """A preset's calibrated choice as a push."""
    latents = LatentPush(selection=choice.selection, rule=choice.rule, k=choice.k, beta=choice.beta)
    return Push(layer=choice.layer, dose=choice.dose, latents=latents)


def random_latents(
    preset: LoadedPreset, placement: Placement, load: Callable[[int], Sae], *, seed: int = 0
) -> Steering:
    """As many latents as the choice pushes, drawn at random, with its strengths and dose."""
    choice = preset.preset.placements[placement].choice
    sae = load(choice.layer)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randperm(sae.d_sae, generator=generator)[: choice.k]
    statistics = preset.statistics(placement, choice.layer)
    top = rank(statistics, choice.selection)[: choice.k]
    weights = strengths(statistics.take(top), choice.rule, choice.beta)
    raw = weighted_sum(sae.decoder(ids[: len(top)]), weights)
    return _steering(preset, placement, choice.layer, raw, choice.dose)


def single_latent(preset: LoadedPreset, placement: Placement) -> Steering:
    """The selection's best latent alone, at the choice's dose."""
    choice = preset.preset.placements[placement].choice
    latents = LatentPush(selection=choice.selection, rule=choice.rule, k=1, beta=choice.beta)
    push = Push(layer=choice.layer, dose=choice.dose, latents=latents)
    return steering_for(preset, placement, push)


def plain_saif(preset: LoadedPreset, placement: Placement) -> Steering:
    """Σ μ_j W_dec[j] over the 15 most sensitive latents of the last layer, at its own length."""
    layer = max(preset.preset.placements[placement].layer_numbers)
    raw = direction(
        preset.statistics(placement, layer),
        preset.decoder_rows(placement, layer),
        selection="saif",
        rule="mean",
        k=SAIF_K,
    )
    norm = preset.preset.placements[placement].table(layer).residual_norm
    return _steering(preset, placement, layer, raw, float(raw.norm()) / norm)


def _steering(
    preset: LoadedPreset, placement: Placement, layer: int, raw: Tensor, dose: float
) -> Steering:
    norm = preset.preset.placements[placement].table(layer).residual_norm
    return Steering({layer: at_dose(raw, dose, norm)}, "response", {layer: dose})
