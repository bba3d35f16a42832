"""The KV cache of a batch: keys and values written into preallocated buffers."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_SPARE_COLUMNS = 128  # allocated beyond what a layer holds

_Buffers = tuple[Tensor, Tensor]


class PreallocatedLayer(DynamicLayer):
    """A layer's keys and values, which grow in place.

    transformers concatenates, so that every step copies the whole cache; here a step writes one
    column. `keys` and `values` are views of what is filled, as everything else expects them, and
    made when somebody asks: two for each layer would be a tenth of a small model's step.
    """

    def __init__(self) -> None:
        self._buffers: _Buffers | None = None
        self._length = 0
        self._detached: list[Tensor | None] = [None, None]  # what replaced the views
        super().__init__()

    @property  # type: ignore[override]
    def keys(self) -> Tensor | None:
        return self._part(0)

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        self._replace(0, keys)

    @property  # type: ignore[override]
    def values(self) -> Tensor | None:
        return self._part(1)

    @values.setter
    def values(self, values: Tensor | None) -> None:
        self._replace(1, values)

    def _part(self, which: int) -> Tensor | None:
        if self._buffers is None:
            return self._detached[which]
        return self._buffers[which][:, :, : self._length]

    def _replace(self, which: int, tensor: Tensor | None) -> None:
        """Choosing rows, say, puts new tensors in the views' place: the buffers are given up."""
        self._detached = [self.keys, self.values]
        self._detached[which] = tensor
        self._buffers = None

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        filled = self.get_seq_length()
        keys, values = self._reserve(filled, key_states, value_states)
        end = filled + key_states.shape[-2]
        keys[:, :, filled:end].copy_(key_states)
        values[:, :, filled:end].copy_(value_states)
        self._length = end
        return self._filled

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`update` for one more column: key and value (rows, heads, width)."""
        buffers = self.open_column()
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer.select(2, self._length - 1).copy_(new)
        return self._filled

    def open_column(self) -> tuple[Tensor, Tensor]:
        """One more column, for the caller to write: the buffers of keys and of values, (rows,
        heads, columns, width), of which that column is the last one filled."""
        buffers = self._buffers
        if buffers is None or self._length == buffers[0].shape[2]:
            keys, values = self._filled
            buffers = self._reserve(keys.shape[2], keys[:, :, :1], values[:, :, :1])
        self._length += 1
        return buffers

    def _reserve(self, filled: int, key_states: Tensor, value_states: Tensor) -> _Buffers:
        """The buffers, with space for these after what is filled."""
        end = filled + key_states.shape[-2]
        buffers = self._buffers
        if buffers is None or end > buffers[0].shape[-2]:
            columns = end + _SPARE_COLUMNS
            buffers = (_allocate(key_states, columns), _allocate(value_states, columns))
            for buffer, had in zip(buffers, self._filled, strict=True):
                if filled:
                    buffer[:, :, :filled].copy_(had)
            self._buffers, self._length = buffers, filled
            self._detached = [None, None]
        return buffers

    @property
    def _filled(self) -> tuple[Tensor, Tensor]:
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        return keys, values


def _allocate(like: Tensor, columns: int) -> Tensor:
    batch, heads, _, width = like.shape
    return torch.empty(batch, heads, columns, width, dtype=like.dtype, device=like.device)


def new_cache(config: Any) -> DynamicCache:
    """An empty cache with the layers that this model needs; only full attention grows in place."""
    cache = DynamicCache(config=config)
    cache.layers = [
        PreallocatedLayer() if type(each) is DynamicLayer else each for each in cache.layers
    ]
    return cache
