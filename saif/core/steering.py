"""The arithmetic of steering: which positions, how much at each, and the edit itself.

Tensors in, tensors out; no model, file or clock.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from saif.core.types import CONSTANT, Schedule, Span
from saif.errors import SteeringError

FADED = 0.05
"""Fading ends once less than this share is left: in bfloat16 a fainter vector may change nothing,
and what changes nothing must not be reported as steered."""


@dataclass(frozen=True, eq=False)
class LatentEncoder:
    """Encoder rows of k latents, and the decoder rows they write with.

    A latent's activation is pre where pre > threshold, else 0, with pre = encoder @ z + bias.
    """

    encoder: Tensor
    """(k, d_model)"""
    bias: Tensor
    """(k,)"""
    threshold: Tensor
    """(k,)"""
    decoder: Tensor
    """(k, d_model)"""

    def scaled(self, share: float) -> Self:
        """The same latents, writing `share` as much."""
        return self if share == 1 else replace(self, decoder=share * self.decoder)

    def contribution(self, resid: Tensor) -> Tensor:
        """What these latents write into a residual (…, d_model): Σ_j a_j(z) · W_dec[j]."""
        pre = resid.float() @ self.encoder.to(resid.device).float().T + self.bias.to(resid.device)
        active = torch.where(pre > self.threshold.to(resid.device), pre, torch.zeros_like(pre))
        return (active @ self.decoder.to(resid.device).float()).to(resid)


@dataclass(frozen=True, eq=False)
class Steering:
    """What one row is steered with: a direction per layer, ready to add (strength included).

    At strength 0 it says where it would steer, and adds nothing. Raises SteeringError if its
    parts don't fit together.
    """

    directions: Mapping[int, Tensor]
    """layer -> (d_model,) float32 on the CPU, never the zero vector. Empty at strength 0, because
    "off" means that nothing is added at all."""

    span: Span
    """Which tokens are steered."""

    dose: Mapping[int, float]
    """layer -> ‖direction‖ / mean ‖residual‖ at that layer; the unit that means the same on every
    model."""

    schedule: Schedule = CONSTANT

    clamped: Mapping[int, LatentEncoder] = field(default_factory=dict)
    """layer -> the latents whose own contribution is taken away before the direction is added, so
    that they end up *at* their coefficients."""

    latents: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """layer -> the latents whose decoder rows make the direction, best first, by their index in
    the SAE; empty for a direction that is not made of latents."""

    strength: float = 1.0
    """What the calibrated dose was multiplied by."""

    def __post_init__(self) -> None:
        if self.strength == 0:
            if self.directions or any(self.dose.values()):
                raise SteeringError("At strength 0 there is no direction to add, and no dose.")
            return
        if not self.directions or set(self.dose) != set(self.directions):
            raise SteeringError("Every steered layer needs its dose, and no other has one.")
        if set(self.clamped) - set(self.directions):
            raise SteeringError("Latents can only be clamped at a steered layer.")
        for layer, direction in self.directions.items():
            if direction.ndim != 1:
                raise SteeringError(f"The direction at layer {layer} is not a vector.")
            if not bool(torch.isfinite(direction).all()):
                raise SteeringError(
                    f"The steering direction at layer {layer} holds NaN or infinite numbers.",
                    hint="Its preset is damaged; build it again.",
                )
            if not bool(direction.any()) or not 0 < self.dose[layer] < math.inf:
                raise SteeringError(
                    f"The steering direction at layer {layer} is zero, or its dose is.",
                    hint="To steer nothing, pass no steering.",
                )

    @property
    def off(self) -> bool:
        """Whether nothing is added."""
        return not self.directions

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.dose)

    @property
    def k(self) -> int:
        """How many latents make the direction at the first layer."""
        return len(self.latents.get(self.layers[0], ()))

    @property
    def total_dose(self) -> float:
        """Of all layers together."""
        return sum(self.dose.values())

    @property
    def where(self) -> str:
        """ "layer 24", or "layers 18 + 24"."""
        return f"layer{'s' * (len(self.layers) > 1)} {' + '.join(map(str, self.layers))}"


def weighted_sum(rows: Tensor, coefficients: Tensor) -> Tensor:
    """Σ_j coefficients[j] · rows[j]: (k, d_model), (k,) -> (d_model,) in float32.

    float32 whatever the input: in bfloat16 the small latents vanish beside the large ones.
    """
    return coefficients.float() @ rows.float()


def span_mask(
    span: Span,
    token_ids: Sequence[int],
    prompt_length: int,
    control_ids: Collection[int],
    start: int = 0,
) -> list[bool]:
    """Which of a row's tokens from position `start` on are steered.

    Positions are absolute: with a KV cache each step sees one token, so an index into the call
    would mean another token every time.

    `token_ids` is prompt plus whatever was generated so far. Control tokens (BOS, turn markers)
    inside the prompt are left alone: steering them breaks the template. The last prompt token is
    steered in a `response` span even if it is a control token, since the reply starts from it.
    """
    return [
        (span != "response" and position < prompt_length and token not in control_ids)
        or (span != "prompt" and position >= prompt_length - 1)
        for position, token in enumerate(token_ids[start:], start)
    ]


def fade(age: int, half_life: int | None) -> float:
    """Share of the strength left `age` tokens after the last prompt token; 0 once `FADED`."""
    left = 1.0 if half_life is None else 0.5 ** (age / half_life)
    return left if left >= FADED else 0.0


def span_weights(
    steering: Steering,
    token_ids: Sequence[int],
    prompt_length: int,
    control_ids: Collection[int],
    start: int = 0,
) -> list[float]:
    """What share of its strength a row's tokens from `start` on are steered with; 0 for not at
    all. See `span_mask` for which they are and `fade` for the rest."""
    mask = span_mask(steering.span, token_ids, prompt_length, control_ids, start)
    ages = range(start - prompt_length + 1, start - prompt_length + 1 + len(mask))
    half_life = steering.schedule.half_life
    return [fade(max(age, 0), half_life) if on else 0.0 for age, on in zip(ages, mask, strict=True)]


def add_direction(
    resid: Tensor,
    directions: Tensor,
    weights: Tensor,
    *,
    clamped: Mapping[int, LatentEncoder] | None = None,
    keep_norm: Collection[int] = (),
) -> Tensor:
    """`resid` with its row's direction added wherever its weight is above 0; a new tensor.

    resid (batch, pos, d_model), directions (batch, d_model), weights (batch, pos). clamped: row ->
    latents taken away first. keep_norm: rows whose residuals keep their length. `torch.where`
    selects rather than multiplies, so a NaN direction can't leak into rows it isn't meant for
    (0 · NaN is NaN), and the result keeps the residual's dtype and device.
    """
    weights = weights.to(resid.device)
    change = directions.to(resid)[:, None, :]
    if clamped:
        change = change.expand_as(resid).clone()
        for row, encoder in clamped.items():
            change[row] -= encoder.contribution(resid[row])
    moved = resid + weights.to(resid)[:, :, None] * change
    if keep_norm:
        rows = list(keep_norm)
        moved[rows] *= resid[rows].norm(dim=-1, keepdim=True) / moved[rows].norm(
            dim=-1, keepdim=True
        ).clamp_min(torch.finfo(moved.dtype).tiny)
    return torch.where((weights > 0)[:, :, None], moved, resid)
