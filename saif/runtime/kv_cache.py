"""The KV cache of a batch: keys and values written into room that is made in advance."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_ROOM = 128  # columns that a layer is given beyond what it needs

_Buffers = tuple[Tensor, Tensor]


class RoomyLayer(DynamicLayer):
    """A layer's keys and values, which grow in place.

    transformers concatenates, so that every step copies the whole cache; here a step writes one
    column. `keys` and `values` are views of what is filled, as everything else expects them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._buffers: _Buffers | None = None

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
        keys, values = self._with_room(filled, key_states, value_states)
        end = filled + key_states.shape[-2]
        keys[:, :, filled:end].copy_(key_states)
        values[:, :, filled:end].copy_(value_states)
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`update` for one more column: key and value (rows, heads, width)."""
        buffers = self.open_column()
        filled = self.get_seq_length() - 1
        for buffer, new in zip(buffers, (key, value), strict=True):
            buffer.select(2, filled).copy_(new)
        return self._filled

    def open_column(self) -> tuple[Tensor, Tensor]:
        """One more column, for the caller to write: all the room for keys and for values, (rows,
        heads, room, width), of which that column is the last one filled."""
        filled = self.get_seq_length()
        keys, values = self._filled
        buffers = self._with_room(filled, keys[:, :, :1], values[:, :, :1])
        self.keys, self.values = (buffer[:, :, : filled + 1] for buffer in buffers)
        return buffers

    def _with_room(self, filled: int, key_states: Tensor, value_states: Tensor) -> _Buffers:
        """The buffers, with room for these after what is filled."""
        end = filled + key_states.shape[-2]
        buffers = self._buffers
        if buffers is None or end > buffers[0].shape[-2] or not self._lies_in(buffers):
            room = end + _ROOM
            buffers = (_roomy(key_states, room), _roomy(value_states, room))
            for buffer, had in zip(buffers, self._filled, strict=True):
                if filled:
                    buffer[:, :, :filled].copy_(had)
            self._buffers = buffers
        return buffers

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
