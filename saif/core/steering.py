"""The arithmetic of steering: which positions, which directions, and adding them.

Tensors in, tensors out; no model, file or clock.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saif.core.spec import Span
from saif.errors import SteeringError


@dataclass(frozen=True, eq=False)
class Steering:
    """What is added to one row: a direction per layer, ready to add (strength included).

    directions: layer -> (d_model,) float32 on the CPU; the zero vector is not allowed, because
        "off" means that nothing is added at all.
    span: which tokens are steered.
    dose: layer -> ‖direction‖ / mean ‖residual‖ at that layer; the strength unit that means the
        same on every model.
    """

    directions: Mapping[int, Tensor]
    span: Span
    dose: Mapping[int, float]

    def __post_init__(self) -> None:
        if set(self.dose) != set(self.directions):
            raise SteeringError("Every steered layer needs its dose, and no other has one.")
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
        return Steering(directions, self.span, dose)


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


def add_where(resid: Tensor, directions: Tensor, mask: Tensor) -> Tensor:
    """`resid` with its row's direction added wherever `mask` is true; a new tensor.

    resid (batch, pos, d_model), directions (batch, d_model), mask (batch, pos). `torch.where`
    selects rather than multiplies, so a NaN direction can't leak into rows it isn't meant for
    (0 · NaN is NaN), and the result keeps the residual's dtype and device.
    """
    pushed = resid + directions.to(resid)[:, None, :]
    return torch.where(mask.to(resid.device)[:, :, None], pushed, resid)
