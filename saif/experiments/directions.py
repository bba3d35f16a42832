"""The directions that are compared: the preset's, and the honest baselines beside it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch

from saif.core.selection import direction, rank, strengths
from saif.core.spec import Placement
from saif.core.steering import Steering, weighted_sum
from saif.presets.preset import LoadedPreset
from saif.presets.push import choice_push, steering_along, steering_for
from saif.runtime.sae import Sae

Condition = Literal[
    "unsteered", "steered", "prompted", "mean-difference", "random", "single-latent", "saif"
]
"""steered: the calibrated preset. random: as many random latents at the same dose. single-latent:
the best one alone at the same dose. saif: the paper's plain recipe, k = 15 by sensitivity with
α = μ at the last layer with an SAE, at strength 1."""

CONDITIONS: tuple[Condition, ...] = get_args(Condition)
SAIF_K = 15


def random_latents(
    preset: LoadedPreset, placement: Placement, load: Callable[[int], Sae], *, seed: int = 0
) -> Steering:
    """As many latents as the choice pushes, drawn at random, with its strengths and dose."""
    choice = preset.preset.placements[placement].choice
    push = choice_push(choice)
    generator = torch.Generator().manual_seed(seed)
    raw = {}
    for layer in push.layers:
        sae = load(layer)
        statistics = preset.statistics(placement, layer)
        top = rank(statistics, choice.selection)[: choice.k]
        ids = torch.randperm(sae.d_sae, generator=generator)[: len(top)]
        weights = strengths(statistics.take(top), choice.rule, choice.beta)
        raw[layer] = weighted_sum(sae.decoder(ids), weights)
    # Clamping needs latents that were read; random ones are added, at the same length.
    shape = replace(push.shape, clamp=False)
    return steering_along(preset, placement, raw, push.dose_per_layer, shape=shape)


def single_latent(preset: LoadedPreset, placement: Placement) -> Steering:
    """The selection's best latent alone, at the choice's dose and in its shape."""
    push = choice_push(preset.preset.placements[placement].choice)
    assert push.latents is not None
    alone = replace(push.latents, k=1)
    return steering_for(preset, placement, replace(push, latents=alone))


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
    return steering_along(preset, placement, {layer: raw}, float(raw.norm()) / norm)
