"""What a step does to the residual stream: one edit per steered layer, for all rows at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saif.core.steering import add_direction
from saif.runtime.batch import Row


class SteeringHook:
    """The edit of one layer in one pass. It counts what it really changes.

    weights (batch, pos): see `saif.runtime.batch.steer_weights`.
    """

    def __init__(self, layer: int, rows: Sequence[Row], weights: Sequence[Sequence[float]]) -> None:
        self._layer = layer
        self._weights = weights
        self._steerings = {
            index: row.steering
            for index, row in enumerate(rows)
            if row.steering is not None and layer in row.steering.directions
        }
        self._counts: list[Tensor | list[int]] = []

    def __call__(self, resid: Tensor) -> Tensor:
        """resid (batch, pos, d_model) with its row's direction added; see `add_direction`."""
        layer, here = self._layer, self._steerings
        directions = torch.zeros(len(resid), resid.shape[-1])
        weights = torch.zeros(len(resid), len(self._weights[0]))
        for index, steering in here.items():
            directions[index] = steering.directions[layer]
            weights[index] = torch.tensor(self._weights[index])
        clamped = {i: s.clamped[layer] for i, s in here.items() if layer in s.clamped}
        keep_norm = [i for i, s in here.items() if s.schedule.keep_norm]
        edited = add_direction(resid, directions, weights, clamped=clamped, keep_norm=keep_norm)
        self.note((edited != resid).any(dim=-1).sum(dim=1))
        return edited

    def added(self) -> dict[int, Tensor] | None:
        """Row -> what is added to the residual (d_model,) of its one position, for who adds it by
        other means and notes what that changed; None if adding is not all there is to do."""
        found = {}
        for index, steering in self._steerings.items():
            if steering.schedule.keep_norm or self._layer in steering.clamped:
                return None
            (weight,) = self._weights[index]
            if weight > 0:
                direction = steering.directions[self._layer].contiguous()
                found[index] = direction if weight == 1 else weight * direction
        return found

    def note(self, changed: Tensor | list[int]) -> None:
        """changed (batch,): how many positions of each row were really changed."""
        self._counts.append(changed)

    @property
    def counts(self) -> list[int]:
        """How many positions of each row were changed so far. Waits for the device."""
        none = [0] * len(self._weights)
        counts = (n if isinstance(n, list) else n.tolist() for n in self._counts)
        return [sum(each) for each in zip(none, *counts, strict=True)]


def steering_hooks(
    rows: Sequence[Row], weights: Sequence[Sequence[float]]
) -> dict[int, SteeringHook]:
    """layer -> its edit.

    A step with nothing to steer (a prompt chunk outside the span) needs no hook at all.
    """
    if not any(map(any, weights)):
        return {}
    layers = {layer for row in rows if row.steering for layer in row.steering.directions}
    return {layer: SteeringHook(layer, rows, weights) for layer in sorted(layers)}
