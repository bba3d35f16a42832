"""The KV cache of a batch: keys and values written into room that is made in advance."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_ROOM = 128  # columns that a layer is given beyond what it needs


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, which grow in place.

    transformers concatenates, so that every step copies the whole cache; here a step writes one
    column. `keys` and `values` are views of what is filled, as everything else expects them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

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
        end = filled + key_states.shape[-2]
        buffers = self._buffers
        if buffers is None or end > buffers[0].shape[-2] or not self._lies_in(buffers):
            room = end + _ROOM
            buffers = (_roomy(key_states, room), _roomy(value_states, room))
            for buffer, had in zip(buffers, self._filled, strict=True):
                if filled:
                    buffer[:, :, :filled].copy_(had)
            self._buffers = buffers
        keys, values = buffers
        keys[:, :, filled:end].copy_(key_states)
        values[:, :, filled:end].copy_(value_states)
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`update` for one more column: key and value (rows, heads, width)."""
        filled, buffers = self.get_seq_length(), self._buffers
        if buffers is None or filled == buffers[0].shape[-2] or not self._lies_in(buffers):
            return self.update(key[:, :, None], value[:, :, None])
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer.select(2, filled).copy_(new)
        end = filled + 1
        self.keys, self.values = buffers[0][:, :, :end], buffers[1][:, :, :end]
        return self.keys, self.values

    @property
    def _filled(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _lies_in(self, buffers: tuple[Tensor, Tensor]) -> bool:
        """Whether keys and values still do: choosing rows puts new tensors in their place."""
        return all(
            now.data_ptr() == buffer.data_ptr() and now.shape[0] == buffer.shape[0]
            for now, buffer in zip(self._filled, buffers, strict=True)
        )


def _roomy(like: Tensor, room: int) -> Tensor:
    batch, heads, _, width = like.shape
    return torch.empty(batch, heads, room, width, dtype=like.dtype, device=like.device)


def new_cache(config: Any) -> DynamicCache:
    """An empty cache with the layers that this model needs; only full attention grows in place."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(each) is DynamicLayer else each for each in cache.layers]
    return cache
