"""Rows that decode together: their tokens, their steering and the KV cache behind them."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saif.core.steering import Steering, span_mask, span_weights
from saif.core.types import Sampling
from saif.errors import SteeringError


@dataclass(slots=True)
class Row:
    """One sequence of a batch: what it holds so far, and how it goes on."""

    token_ids: list[int]
    """Prompt, then whatever of the reply is there. A batch appends to copies of the rows given."""
    steering: Steering | None = None
    prompt_length: int = 0
    """How many of the tokens are the prompt; 0 for all of those given."""
    sampling: Sampling = Sampling()
    cache_key: str = ""
    """What its entries in a prefix cache are evicted by."""

    def __post_init__(self) -> None:
        self.prompt_length = self.prompt_length or len(self.token_ids)


@dataclass(slots=True)
class Batch:
    """Rows that decode together, and the KV cache behind them.

    Left-padded, so that every row's newest token is in the last column.
    """

    rows: list[Row]
    cache: Any
    _mask: Tensor = field(repr=False)
    _newer: int = 0
    """Columns that every row has filled since; not every step looks at the mask."""

    @property
    def width(self) -> int:
        """Columns of the KV cache, once the newest tokens are run."""
        return self._mask.shape[1] + self._newer

    @property
    def attention_mask(self) -> Tensor:
        """(batch, width): 1 where a column is a position of the row, 0 where it is padding."""
        if self._newer:
            newer = self._mask.new_ones(len(self._mask), self._newer)
            self._mask, self._newer = torch.cat([self._mask, newer], dim=1), 0
        return self._mask

    def append(self, token_ids: Sequence[int]) -> None:
        """One more token for every row."""
        for row, token in zip(self.rows, token_ids, strict=True):
            row.token_ids.append(token)
        self._newer += 1

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but these, so that finished rows cost nothing more; in this order."""
        if list(rows) == list(range(len(self.rows))):
            return
        index = torch.tensor(list(rows), device=self._mask.device)
        self._mask = self.attention_mask[index]
        self.rows = [self.rows[row] for row in rows]
        self.cache.reorder_cache(index)

    def merge(self, other: "Batch") -> "Batch":
        """Both batches' rows as one, `other`'s after these; neither may be used after that.

        The shorter one is padded on the left, where the mask hides it. So it is only for models in
        which every position sees all before it (`LanguageModel.rows_can_merge`).
        """
        width = max(self.attention_mask.shape[1], other.attention_mask.shape[1])
        for layer, others in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys = _stacked(layer.keys, others.keys, width, -2)
            layer.values = _stacked(layer.values, others.values, width, -2)
        mask = _stacked(self.attention_mask, other.attention_mask, width, -1)
        return Batch([*self.rows, *other.rows], self.cache, mask)


def _stacked(first: Tensor, second: Tensor, width: int, dim: int) -> Tensor:
    """One above the other, each with zeros before it along `dim` up to `width` columns."""
    after = (0, 0) * (-1 - dim)
    return torch.cat([F.pad(x, (*after, width - x.shape[dim], 0)) for x in (first, second)])


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one prefill or decode step gives every row of a batch."""

    logits: Tensor
    """(rows, vocab) float32, for the next token."""
    steered: tuple[int, ...]
    """Positions of each row that were changed, counted; all steered layers agree."""


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (batch, pos), every row's last token in the last column."""
    padded = partial(pad_sequence, batch_first=True, padding_side="left")
    rows = [torch.tensor(list(sequence), dtype=torch.long) for sequence in sequences]
    ids = padded(rows, padding_value=pad_id)
    return ids, padded([torch.ones_like(row) for row in rows])


def check_directions(rows: Sequence[Row], n_layers: int, d_model: int, model_id: str) -> None:
    """Raise SteeringError unless every direction is one of this model's."""
    for row in rows:
        for layer, direction in (row.steering.directions if row.steering else {}).items():
            if not 0 <= layer < n_layers or direction.shape != (d_model,):
                raise SteeringError(
                    f"A direction of width {direction.shape[0]} at layer {layer} doesn't fit "
                    f"{model_id} ({n_layers} layers, width {d_model}).",
                    hint="The preset was made for another model.",
                )


def steer_weights(
    rows: Sequence[Row], width: int, control_ids: frozenset[int]
) -> list[list[float]]:
    """(batch, width): with what share of its strength each of the newest `width` columns is
    steered, by absolute position. Numbers, because a tensor of so few takes longer to make.

    Columns left of a short row's first token are padding and stay 0.
    """
    weights = []
    for row in rows:
        found: list[float] = []
        if row.steering is not None and row.steering.directions:
            start = max(0, len(row.token_ids) - width)
            found = span_weights(row.steering, row.token_ids, row.prompt_length, control_ids, start)
        weights.append([0.0] * (width - len(found)) + found)
    return weights


def verified(
    rows: Sequence[Row],
    weights: Sequence[Sequence[float]],
    counts: Mapping[int, Sequence[int]],
) -> tuple[int, ...]:
    """The number of steered positions per row, if it is what the span says; counts: layer -> how
    many positions of each row were really changed.

    Every row is checked at every steered layer: a plain row that was changed is as wrong as a
    steered one that wasn't. Raises SteeringError.
    """
    steered = [sum(weight > 0 for weight in row) for row in weights]
    steerings = [row.steering for row in rows]
    for layer in {layer for s in steerings if s for layer in s.directions}:
        wanted = [
            n if s and layer in s.directions else 0 for n, s in zip(steered, steerings, strict=True)
        ]
        found = list(counts.get(layer, [0] * len(rows)))
        if found != wanted:
            raise SteeringError(
                f"Steering at layer {layer} changed {found} positions instead of {wanted}.",
                hint="This reply was not steered as asked, so it was stopped.",
            )
    return tuple(steered)


def shared_prefix(sequences: Sequence[Sequence[Hashable]]) -> int:
    """How many leading tokens all sequences have in common."""
    columns = enumerate(zip(*sequences, strict=False))
    return next((n for n, each in columns if len(set(each)) > 1), min(map(len, sequences)))


def unsteered_prefix(rows: Sequence[Row], control_ids: frozenset[int]) -> int:
    """How many leading tokens all rows have in common and no row steers, the newest left out:
    every row has to run at least one token of its own."""
    skip = shared_prefix([row.token_ids[:-1] for row in rows])
    for row in rows:
        if row.steering is not None and row.steering.directions:
            mask = span_mask(row.steering.span, row.token_ids, row.prompt_length, control_ids)
            skip = min(skip, mask.index(True) if True in mask else skip)
    return skip
