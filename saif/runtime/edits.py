"""What a step does to the residual stream: one edit per steered layer, for all rows at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from saif.core.steering import pushed
from saif.runtime.batch import BatchRow
from saif.runtime.hooks import Edit


def steered_edits(
    rows: Sequence[BatchRow], weights: Tensor, d_model: int, counts: dict[int, Tensor]
) -> dict[int, Edit]:
    """layer -> its edit. weights (batch, pos): see `saif.runtime.batch.steer_weights`. Each edit
    notes in `counts` how many positions of each row it really changed.

    A step with nothing to push (a prompt chunk outside the span) needs no hook at all.
    """
    if not bool((weights > 0).any()):
        return {}
    layers = {layer for row in rows if row.steering for layer in row.steering.directions}
    return {layer: _edit(layer, rows, weights, d_model, counts) for layer in sorted(layers)}


def _edit(
    layer: int, rows: Sequence[BatchRow], weights: Tensor, d_model: int, counts: dict[int, Tensor]
) -> Edit:
    here = {
        index: row.steering
        for index, row in enumerate(rows)
        if row.steering is not None and layer in row.steering.directions
    }
    directions = torch.zeros(len(rows), d_model)
    for index, steering in here.items():
        directions[index] = steering.directions[layer]
    shares = weights * torch.tensor([index in here for index in range(len(rows))])[:, None]
    clamped = {i: s.clamped[layer] for i, s in here.items() if layer in s.clamped}
    keep_norm = [i for i, s in here.items() if s.keep_norm]

    def edit(resid: Tensor) -> Tensor:
        edited = pushed(resid, directions, shares, clamped=clamped, keep_norm=keep_norm)
        changed = (edited != resid).any(dim=-1).sum(dim=1)
        counts[layer] = counts[layer] + changed if layer in counts else changed
        return edited

    return edit
