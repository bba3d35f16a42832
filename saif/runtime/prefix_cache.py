"""Keys and values kept from one turn of a conversation to the next, so that a turn reads only what
is new. Bounded in bytes; what was used longest ago goes first."""

import hashlib
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saif.core.steering import Steering, span_weights
from saif.runtime.batch import Batch, BatchRow

_MOST_ENTRIES = 64  # each is looked through at every turn
_MOST_FORGOTTEN = 4096  # conversations; what of them may still be on its way ends within seconds


@dataclass(frozen=True, slots=True)
class _Read:
    """What was read: tokens, with what share of its strength each was steered, and by what."""

    token_ids: Sequence[int]
    weights: Sequence[float]
    steering: str

    def shared(self, other: "_Read") -> int:
        """How many leading positions were read in the very same way."""
        n = 0
        for mine, theirs, weight, other_weight in zip(
            self.token_ids, other.token_ids, self.weights, other.weights, strict=False
        ):
            if mine != theirs or weight != other_weight:
                break
            if weight and self.steering != other.steering:
                break
            n += 1
        return n


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    read: _Read
    conversation: str
    layers: list[tuple[Tensor, Tensor]]
    """Keys and values (heads, positions, width) per layer."""

    @property
    def bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)

    def is_start_of(self, other: "_Entry") -> bool:
        """Whether the other makes it superfluous: it says the same and more, for as long."""
        return self.conversation == other.conversation and self.read.shared(other.read) == len(
            self.read.token_ids
        )


@dataclass(frozen=True, slots=True)
class Remembered:
    """The first `length` positions of a row, of which the keys and values are at hand. steered: how
    many of them were."""

    length: int
    steered: int
    layers: list[tuple[Tensor, Tensor]]


NOTHING = Remembered(0, 0, [])


class PrefixCache:
    """Safe to use from several threads. limit: bytes of keys and values."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: list[_Entry] = []  # used longest ago first
        self._forgotten: deque[str] = deque(maxlen=_MOST_FORGOTTEN)
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        with self._lock:
            return sum(entry.bytes for entry in self._entries)

    def recall(self, row: BatchRow, control_ids: Collection[int], most: int) -> Remembered:
        """The longest part of the row's first `most` tokens that was read as it would be now."""
        wanted = _read_of(row, control_ids)
        with self._lock:
            lengths = [min(entry.read.shared(wanted), most) for entry in self._entries]
            if not any(lengths):
                return NOTHING
            best = lengths.index(max(lengths))
            entry = self._entries.pop(best)
            self._entries.append(entry)
        length = lengths[best]
        steered = sum(weight > 0 for weight in wanted.weights[:length])
        return Remembered(length, steered, entry.layers)

    def remember(self, batch: Batch, rows: Sequence[int], control_ids: Collection[int]) -> None:
        """Keep what these rows of a batch have read, unless that was to be forgotten."""
        columns = batch.attention_mask.bool()
        for row in rows:
            conversation = batch.rows[row].conversation
            if conversation in self._forgotten:
                continue
            layers = [
                (layer.keys[row][:, columns[row]], layer.values[row][:, columns[row]])
                for layer in batch.cache.layers
            ]
            self._add(_Entry(_read_of(batch.rows[row], control_ids), conversation, layers))

    def _add(self, new: _Entry) -> None:
        with self._lock:
            if new.conversation in self._forgotten:  # while it was copied
                return
            kept = [entry for entry in self._entries if not entry.is_start_of(new)]
            self._entries = [*kept, new][-_MOST_ENTRIES:]
            while sum(entry.bytes for entry in self._entries) > self._limit:
                self._entries.pop(0)

    def forget(self, conversation: str | None = None) -> None:
        """Drop a conversation, and whatever of it may still come; or all that is kept so far."""
        with self._lock:
            if conversation is None:
                self._entries.clear()
                return
            self._forgotten.append(conversation)
            self._entries = [e for e in self._entries if e.conversation != conversation]


def restore(cache: Any, found: Sequence[Remembered], device: torch.device) -> Tensor:
    """Fill an empty cache with what is remembered of each row, left-padded; its attention mask."""
    width = max(row.length for row in found)
    mask = torch.zeros(len(found), width, dtype=torch.long, device=device)
    for place, row in enumerate(found):
        mask[place, width - row.length :] = 1
    some = next(row.layers for row in found if row.length)
    for layer, (like, _) in enumerate(some):
        both = like.new_zeros(2, len(found), like.shape[0], width, like.shape[2])
        for place, row in enumerate(found):
            if row.length:
                for which in (0, 1):
                    kept = row.layers[layer][which][:, : row.length]
                    both[which, place, :, width - row.length :] = kept
        cache.update(both[0], both[1], layer)
    return mask


def _read_of(row: BatchRow, control_ids: Collection[int]) -> _Read:
    token_ids = tuple(row.token_ids)
    if row.steering is None:
        return _Read(token_ids, (0.0,) * len(token_ids), "")
    weights = span_weights(row.steering, token_ids, row.prompt_length, control_ids)
    return _Read(token_ids, weights, _digest(row.steering))


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
