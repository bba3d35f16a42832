"""Which latents answer to an instruction, and their coefficients in a steering direction.

Sensitivity is SAIF's (He et al., arXiv 2502.11356): the share of contents for which a latent is
more active with the instruction than without it. Tensors in, tensors out.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from saif.core.types import CoefficientRule, Selection

MIN_OUTPUT_SCORE = math.log(2)
"""A latent moves its words if they get twice as likely."""


@dataclass(frozen=True, eq=False)
class LatentStatistics:
    """What is known of m latents at one site and placement; every field is (m,)."""

    ids: Tensor
    """Index in the SAE."""
    sensitivity: Tensor
    """Share of contents with Δ > 0, where Δ is the activation with the instruction minus that
    without it."""
    other_sensitivity: Tensor
    """The same for control prompts that carry *other* instructions."""
    mean: Tensor
    """Of the activation over the with-instruction prompts, zeros included."""
    std: Tensor
    delta: Tensor
    """Mean Δ."""
    delta_std: Tensor
    output_score: Tensor
    """How much steering with the latent alone raises its own words; see `output_score`."""

    def take(self, index: Tensor) -> Self:
        """The latents at these places, in this order."""
        return type(self)(**{name: value[index] for name, value in vars(self).items()})


def latent_statistics(
    with_instruction: Tensor, without: Tensor, with_other: Tensor
) -> LatentStatistics:
    """Statistics of all latents from their activations at the last prompt token.

    All three are (n_contents, d_sae) and row i belongs to content i: the prompt with the
    instruction, the content alone, and the content with another instruction. Output scores take
    steered passes of their own; until those are made they are 0.
    """
    difference = with_instruction - without
    return LatentStatistics(
        ids=torch.arange(difference.shape[1]),
        sensitivity=(difference > 0).float().mean(dim=0),
        other_sensitivity=(with_other - without > 0).float().mean(dim=0),
        mean=with_instruction.mean(dim=0),
        std=with_instruction.std(dim=0),
        delta=difference.mean(dim=0),
        delta_std=difference.std(dim=0),
        output_score=torch.zeros(difference.shape[1]),
    )


def output_score(plain: Tensor, steered: Tensor, words: Tensor) -> Tensor:
    """Mean rise, in nats, of the log-probability of each latent's own words when it steers.

    plain (vocab,), steered (m, vocab): next-token logits. words (m, n): the tokens that latent's
    decoder row raises most by the logit lens. A latent that only *answers* to an instruction
    leaves its words where they were (after Arad et al., arXiv 2505.20063).
    """
    rise = steered.float().log_softmax(dim=-1) - plain.float().log_softmax(dim=-1)
    return rise.gather(1, words.to(rise.device)).mean(dim=1)


def rank(statistics: LatentStatistics, selection: Selection) -> Tensor:
    """Places of the latents, best first.

    saif: by sensitivity, ties by mean Δ; the paper's selection. Sensitivity saturates at 1, so
        ties are common and their rule matters.
    contrast: by sensitivity minus sensitivity to other instructions, which drops latents that
        say "some instruction is present" and punctuation latents.
    signed: by |mean Δ|, falling latents as well as rising ones: what an instruction switches off
        is part of what it does.
    output: as signed, but the latents that move their own words come first.
    """
    if selection in ("signed", "output"):
        size = statistics.delta.abs().argsort(descending=True, stable=True)
        if selection == "signed":
            return size
        moves = (statistics.output_score[size] >= MIN_OUTPUT_SCORE).int()
        return size[moves.argsort(descending=True, stable=True)]
    key = statistics.sensitivity
    if selection == "contrast":
        key = key - statistics.other_sensitivity
    by_delta = statistics.delta.argsort(descending=True, stable=True)
    return by_delta[key[by_delta].argsort(descending=True, stable=True)]


def coefficients(statistics: LatentStatistics, rule: CoefficientRule, beta: float) -> Tensor:
    """α (m,), in units of each latent's own activation.

    mean: μ + β·σ, the paper's. delta: Δ moved away from zero by β·σ_Δ (towards it if β < 0).
    """
    if rule == "mean":
        return statistics.mean + beta * statistics.std
    return statistics.delta + beta * statistics.delta_std * statistics.delta.sign()


def at_dose(direction: Tensor, dose: float, residual_norm: float) -> Tensor:
    """The direction rescaled so that its length is `dose` times the typical residual's.

    A zero direction stays zero: there is nothing to rescale.
    """
    norm = float(direction.float().norm())
    return direction.float() * (dose * residual_norm / norm) if norm else direction.float()
