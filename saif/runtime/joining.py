"""Rows that join a batch while it is running."""

import torch
from torch import Tensor

from saif.runtime.batch import Batch


def joined(batch: Batch, other: Batch) -> Batch:
    """Both batches' rows as one, `other`'s after `batch`'s; neither may be used after that.

    The shorter one is padded on the left, where a mask hides it. So it is only for models in which
    every position sees all before it (`LanguageModel.rows_can_join`).
    """
    width = max(batch.attention_mask.shape[1], other.attention_mask.shape[1])
    for layer, others in zip(batch.cache.layers, other.cache.layers, strict=True):
        layer.keys = _stack(layer.keys, others.keys, width)
        layer.values = _stack(layer.values, others.values, width)
    mask = torch.cat([_pad(batch.attention_mask, width, -1), _pad(other.attention_mask, width, -1)])
    return Batch([*batch.rows, *other.rows], batch.cache, mask)


def _stack(first: Tensor, second: Tensor, width: int) -> Tensor:
    """(rows, heads, columns, d) of each, one above the other."""
    return torch.cat([_pad(first, width, -2), _pad(second, width, -2)])


def _pad(x: Tensor, width: int, dim: int) -> Tensor:
    """`x` with zeros before it along `dim`."""
    missing = list(x.shape)
    missing[dim] = width - x.shape[dim]
    return torch.cat([x.new_zeros(missing), x], dim=dim) if missing[dim] else x
