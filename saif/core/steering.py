"""The arithmetic of steering: which positions, how much at each, and the edit itself.

Tensors in, tensors out; no model, file or clock.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saif.core.types import Span
from saif.errors import SteeringError

FADED = 0.05
"""A fading push ends once less than this share is left: in bfloat16 a fainter one may change
nothing, and what changes nothing must not be reported as steered."""


@dataclass(frozen=True, eq=False)
class LatentReader:
    """Reads k latents off a residual: a = pre where pre > threshold, else 0, with
    pre = encoder @ z + bias. encoder and decoder (k, d_model), bias and threshold (k,)."""

    encoder: Tensor
    bias: Tensor
    threshold: Tensor
    decoder: Tensor

    def contribution(self, resid: Tensor) -> Tensor:
        """What these latents write into a residual (…, d_model): Σ_j a_j(z) · W_dec[j]."""
        pre = resid.float() @ self.encoder.to(resid.device).float().T + self.bias.to(resid.device)
        active = torch.where(pre > self.threshold.to(resid.device), pre, torch.zeros_like(pre))
        return (active @ self.decoder.to(resid.device).float()).to(resid)


@dataclass(frozen=True, eq=False)
class Steering:
    """What is added to one row: a direction per layer, ready to add (strength included).

    directions: layer -> (d_model,) float32 on the CPU; the zero vector is not allowed, because
        "off" means that nothing is added at all.
    span: which tokens are steered.
    dose: layer -> ‖direction‖ / mean ‖residual‖ at that layer; the strength unit that means the
        same on every model.
    half_life, keep_norm: see `saif.core.types.Schedule`.
    clamped: layer -> the latents whose own contribution is taken away before the direction is
        added, so that they end up *at* their strengths.
    """

    directions: Mapping[int, Tensor]
    span: Span
    dose: Mapping[int, float]
    half_life: int | None = None
    keep_norm: bool = False
    clamped: Mapping[int, LatentReader] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.dose) != set(self.directions):
            raise SteeringError("Every steered layer needs its dose, and no other has one.")
        if set(self.clamped) - set(self.directions):
            raise SteeringError("Latents can only be clamped at a steered layer.")
        if self.half_life is not None and self.half_life < 1:
            raise SteeringError(f"A half-life is at least one token, not {self.half_life}.")
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

    def __add__(self, other: "Steering") -> "Steering":
        """Both at once. Directions at a shared layer add up, as two pushes would."""
        if self.span != other.span:
            raise SteeringError("Steerings with different spans can't be added up.")
        if (self.half_life, self.keep_norm) != (other.half_life, other.keep_norm):
            raise SteeringError("Steerings that fade or keep the norm differently can't be added.")
        if set(self.clamped) & set(other.directions) or set(other.clamped) & set(self.directions):
            raise SteeringError("Nothing can be added at a layer whose latents are clamped.")
        directions = dict(self.directions)
        dose = dict(self.dose)
        for layer, direction in other.directions.items():
            if layer not in directions:
                directions[layer], dose[layer] = direction, other.dose[layer]
                continue
            total = directions[layer] + direction
            # ‖z‖ is the same for both, so either dose gives the unit to measure the sum in.
            unit = float(direction.norm()) / other.dose[layer]
            if bool(total.any()):
                directions[layer], dose[layer] = total, float(total.norm()) / unit
            else:  # opposite pushes: nothing is left to add
                del directions[layer], dose[layer]
        clamped = {**self.clamped, **other.clamped}
        return Steering(directions, self.span, dose, self.half_life, self.keep_norm, clamped)


def weighted_sum(rows: Tensor, strengths: Tensor) -> Tensor:
    """Σ_j strengths[j] · rows[j]: (k, d_model), (k,) -> (d_model,) in float32.

    float32 whatever the input: in bfloat16 the small latents vanish beside the large ones.
    """
    return strengths.float() @ rows.float()


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
    inside the prompt are left alone: pushing them breaks the template. The last prompt token is
    steered in a `response` span even if it is a control token, since the reply starts from it.
    """
    last = prompt_length - 1
    mask = []
    for position, token in enumerate(token_ids[start:], start):
        in_prompt = position < prompt_length and token not in control_ids
        in_response = position >= last
        mask.append(
            (span in ("prompt", "all") and in_prompt)
            or (span in ("response", "all") and in_response)
        )
    return mask


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
    half_life = steering.half_life
    return [fade(max(age, 0), half_life) if on else 0.0 for age, on in zip(ages, mask, strict=True)]


def pushed(
    resid: Tensor,
    directions: Tensor,
    weights: Tensor,
    *,
    clamped: Mapping[int, LatentReader] | None = None,
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
        for row, reader in clamped.items():
            change[row] -= reader.contribution(resid[row])
    moved = resid + weights.to(resid)[:, :, None] * change
    if keep_norm:
        rows = list(keep_norm)
        moved[rows] *= resid[rows].norm(dim=-1, keepdim=True) / moved[rows].norm(
            dim=-1, keepdim=True
        ).clamp_min(torch.finfo(moved.dtype).tiny)
    return torch.where((weights > 0)[:, :, None], moved, resid)
