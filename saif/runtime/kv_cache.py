"""The KV cache of a batch: keys and values written into preallocated buffers."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_SPARE_COLUMNS = 128  # allocated beyond what a layer holds

_Both = tuple[Tensor, Tensor]  # keys and values


class PreallocatedLayer(DynamicLayer):
    """A layer's keys and values, which grow in place.

    transformers concatenates, so that every step copies the whole cache; here a step writes one
    column. `keys` and `values` are views of what is filled, as everything else expects them, and
    made when somebody asks: two for each layer would be a tenth of a small model's step. Choosing
    rows, say, puts new tensors in their place, which have no spare columns.
    """

    def __init__(self) -> None:
        self._buffers: tuple[Any, Any] = (None, None)
        self._spare = 0  # columns at the buffers' ends that nothing was written to yet
        super().__init__()

    def _part(self, which: int) -> Any:
        buffer = self._buffers[which]
        return None if buffer is None else buffer[:, :, : buffer.shape[2] - self._spare]

    def _replace(self, which: int, tensor: Tensor | None) -> None:
        self._buffers = (self.keys, tensor) if which else (tensor, self.values)
        self._spare = 0

    keys = property(lambda self: self._part(0), lambda self, new: self._replace(0, new))
    values = property(lambda self: self._part(1), lambda self, new: self._replace(1, new))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = (key_states[:, :, :0], value_states[:, :, :0])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> _Both:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        n = key_states.shape[2]
        for buffer, new in zip(self._open(n), (key_states, value_states), strict=True):
            end = buffer.shape[2] - self._spare
            buffer[:, :, end - n : end].copy_(new)
        return self.keys, self.values

    def append(self, key: Tensor, value: Tensor) -> _Both:
        """`update` for one more column: key and value (rows, heads, width)."""
        for buffer, new in zip(self.open_column(), (key, value), strict=True):
            buffer.select(2, buffer.shape[2] - self._spare - 1).copy_(new)
        return self.keys, self.values

    def open_column(self) -> _Both:
        """One more column, for the caller to write: the buffers of keys and of values, (rows,
        heads, columns, width), of which that column is the last one filled."""
        return self._open(1)

    def _open(self, n: int) -> _Both:
        if n > self._spare:
            spare = n + _SPARE_COLUMNS
            self._buffers = (_grown(self.keys, spare), _grown(self.values, spare))
            self._spare = spare
        self._spare -= n
        return self._buffers


def _grown(filled: Tensor, spare: int) -> Tensor:
    rows, heads, columns, width = filled.shape
    buffer = filled.new_empty(rows, heads, columns + spare, width)
    buffer[:, :, :columns].copy_(filled)
    return buffer


def new_cache(config: Any) -> DynamicCache:
    """An empty cache with the layers that this model needs; only full attention grows in place."""
    cache = DynamicCache(config=config)
    cache.layers = [
        PreallocatedLayer() if type(each) is DynamicLayer else each for each in cache.layers
    ]
    return cache
