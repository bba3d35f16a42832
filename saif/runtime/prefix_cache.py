"""The prefix cache: keys and values of prompts and replies, so that the next turn of a conversation
prefills only what is new in it. Bounded in bytes; the least recently used entry goes first."""

import hashlib
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saif.core.steering import Steering, span_weights
from saif.runtime.batch import Batch, Row, shared_prefix

_MAX_ENTRIES = 64  # each is compared at every look-up
_MAX_EVICTED_KEYS = 4096  # rows of an evicted key that still run end within seconds


_Prefix = tuple[tuple[int, float, str], ...]
"""Tokens, with what share of its strength each was steered, and by what ("" for none): equal ones
at the start of two rows have the very same keys and values."""


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    prefix: _Prefix
    cache_key: str
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values (heads, positions, width) per layer."""

    @property
    def bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def is_covered_by(self, other: "_Entry") -> bool:
        """Whether the other holds all of it, for as long."""
        whole = other.prefix[: len(self.prefix)] == self.prefix
        return self.cache_key == other.cache_key and whole


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """Keys and values of the first `length` positions of a row."""

    length: int
    steered: int
    """How many of the positions were steered."""
    layers: list[tuple[Tensor, Tensor]]


NO_PREFIX = CachedPrefix(0, 0, [])


class PrefixCache:
    """Safe to use from several threads.

    limit: bytes of keys and values. control_ids: of the model's tokenizer, see `span_mask`.
    """

    def __init__(self, limit: int, control_ids: Collection[int]) -> None:
        self._limit = limit
        self._control_ids = control_ids
        self._entries: list[_Entry] = []  # least recently used first
        self._evicted: deque[str] = deque(maxlen=_MAX_EVICTED_KEYS)
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        with self._lock:
            return sum(entry.bytes for entry in self._entries)

    def get(self, row: Row) -> CachedPrefix:
        """The longest prefix of the row that was steered as it would be now. Never the whole row:
        its last token has to be run for the logits after it."""
        wanted, most = self._prefix(row), len(row.token_ids) - 1
        with self._lock:
            lengths = [min(shared_prefix([entry.prefix, wanted]), most) for entry in self._entries]
            if not any(lengths):
                return NO_PREFIX
            best = lengths.index(max(lengths))
            entry = self._entries.pop(best)
            self._entries.append(entry)
        length = lengths[best]
        steered = sum(weight > 0 for _, weight, _ in wanted[:length])
        return CachedPrefix(length, steered, entry.layers)

    def put(self, batch: Batch, rows: Sequence[int]) -> None:
        """Keep what these rows of a batch hold, unless their key was evicted."""
        columns = batch.attention_mask.bool()
        for index in rows:
            row = batch.rows[index]
            if row.cache_key in self._evicted:
                continue
            layers = [
                (layer.keys[index][:, columns[index]], layer.values[index][:, columns[index]])
                for layer in batch.cache.layers
            ]
            self._add(_Entry(self._prefix(row), row.cache_key, layers))

    def evict(self, cache_key: str | None = None) -> None:
        """Drop a key's entries, and whatever of it is still to come; or all entries so far."""
        with self._lock:
            if cache_key is None:
                self._entries.clear()
                return
            self._evicted.append(cache_key)
            self._entries = [entry for entry in self._entries if entry.cache_key != cache_key]

    def _add(self, new: _Entry) -> None:
        with self._lock:
            if new.cache_key in self._evicted:  # while it was copied
                return
            kept = [entry for entry in self._entries if not entry.is_covered_by(new)]
            self._entries = [*kept, new][-_MAX_ENTRIES:]
            while sum(entry.bytes for entry in self._entries) > self._limit:
                self._entries.pop(0)

    def _prefix(self, row: Row) -> _Prefix:
        if row.steering is None:
            return tuple((token, 0.0, "") for token in row.token_ids)
        weights = span_weights(row.steering, row.token_ids, row.prompt_length, self._control_ids)
        by = _digest(row.steering)
        each = zip(row.token_ids, weights, strict=True)
        return tuple((token, weight, by if weight else "") for token, weight in each)


def restore(kv_cache: Any, prefixes: Sequence[CachedPrefix], device: torch.device) -> Tensor:
    """Fill an empty KV cache with one prefix per row, left-padded; returns its attention mask."""
    width = max(prefix.length for prefix in prefixes)
    mask = torch.zeros(len(prefixes), width, dtype=torch.long, device=device)
    for row, prefix in enumerate(prefixes):
        mask[row, width - prefix.length :] = 1
    some = next(prefix.layers for prefix in prefixes if prefix.length)
    for layer, (like, _) in enumerate(some):
        both = like.new_zeros(2, len(prefixes), like.shape[0], width, like.shape[2])
        for row, prefix in enumerate(prefixes):
            if prefix.length:
                for which in (0, 1):
                    kept = prefix.layers[layer][which][:, : prefix.length]
                    both[which, row, :, width - prefix.length :] = kept
        kv_cache.update(both[0], both[1], layer)
    return mask


def _digest(steering: Steering) -> str:
    """Of all that decides what is added where a token is steered."""
    found = hashlib.sha256(repr(steering.schedule.keep_norm).encode())
    for layer, direction in sorted(steering.directions.items()):
        found.update(f"+{layer}".encode() + direction.numpy().tobytes())
    for layer, reader in sorted(steering.clamped.items()):
        found.update(f"-{layer}".encode())
        for tensor in (reader.encoder, reader.bias, reader.threshold, reader.decoder):
            found.update(tensor.float().numpy().tobytes())
    return found.hexdigest()
