"""Rows that decode together: their tokens, their steering and the KV cache behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saif.core.steering import Steering, span_mask, span_weights
from saif.errors import SteeringError


@dataclass(frozen=True, slots=True)
class RowStart:
    """One row as it enters the batch.

    token_ids: everything the model has to read so far. prompt_length: how many of them are the
    prompt; fewer than all when a reply is resumed without a cache. conversation: what it is part
    of, for who wants that forgotten.
    """

    token_ids: Sequence[int]
    steering: Steering | None = None
    prompt_length: int | None = None
    conversation: str = ""


@dataclass(slots=True)
class BatchRow:
    token_ids: list[int]
    prompt_length: int
    steering: Steering | None
    conversation: str = ""


@dataclass(slots=True)
class Batch:
    """Rows that decode together: their tokens so far and the KV cache behind them.

    Left-padded, so that every row's newest token is in the last column.
    """

    rows: list[BatchRow]
    cache: Any
    attention_mask: Tensor = field(repr=False)


@dataclass(frozen=True, slots=True)
class StepResult:
    """logits (batch, vocab) float32 for the next token; steered[row] = positions that were
    really changed in this step, measured, per steered layer (all layers agree or it raises)."""

    logits: Tensor
    steered: tuple[int, ...]


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (batch, pos), every row's last token in the last column."""
    width = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), width), pad_id)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.tensor(list(sequence))
        mask[row, width - len(sequence) :] = 1
    return ids, mask


def check_directions(rows: Sequence[BatchRow], n_layers: int, d_model: int, model_id: str) -> None:
    """Raise SteeringError unless every direction is one of this model's."""
    for row in rows:
        for layer, direction in (row.steering.directions if row.steering else {}).items():
            if not 0 <= layer < n_layers or direction.shape != (d_model,):
                raise SteeringError(
                    f"A direction of width {direction.shape[0]} at layer {layer} doesn't fit "
                    f"{model_id} ({n_layers} layers, width {d_model}).",
                    hint="The preset was made for another model.",
                )


def steer_weights(rows: Sequence[BatchRow], width: int, control_ids: frozenset[int]) -> Tensor:
    """(batch, width): with what share of its strength each of the newest `width` columns is
    steered, by absolute position.

    Columns left of a short row's first token are padding and stay 0.
    """
    weights = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        if row.steering is None or not row.steering.directions:
            continue
        start = max(0, len(row.token_ids) - width)
        found = span_weights(row.steering, row.token_ids, row.prompt_length, control_ids, start)
        weights[index, width - len(found) :] = torch.tensor(found)
    return weights


def verified(
    rows: Sequence[BatchRow], weights: Tensor, counts: Mapping[int, Tensor]
) -> tuple[int, ...]:
    """The number of steered positions per row, if it is what the span says; counts: layer ->
    (batch,) positions that were really changed.

    Every row is checked at every steered layer: a plain row that was changed is as wrong as a
    steered one that wasn't. Raises SteeringError.
    """
    steered: list[int] = (weights > 0).sum(dim=1).tolist()
    steerings = [row.steering for row in rows]
    for layer in {layer for s in steerings if s for layer in s.directions}:
        wanted = [
            n if s and layer in s.directions else 0 for n, s in zip(steered, steerings, strict=True)
        ]
        found = counts[layer].tolist() if layer in counts else [0] * len(rows)
        if found != wanted:
            raise SteeringError(
                f"Steering at layer {layer} changed {found} positions instead of {wanted}.",
                hint="This reply was not steered as asked, so it was stopped.",
            )
    return tuple(steered)


def shared_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all sequences have in common."""
    shortest = min(sequences, key=len)
    return next(
        (i for i, token in enumerate(shortest) if any(s[i] != token for s in sequences)),
        len(shortest),
    )


def unsteered_prefix(rows: Sequence[BatchRow], control_ids: frozenset[int]) -> int:
    """How many leading tokens all rows have in common and no row steers, the newest left out:
    every row has to read at least one token of its own."""
    skip = shared_prefix([row.token_ids[:-1] for row in rows])
    for row in rows:
        if row.steering is not None and row.steering.directions:
            mask = span_mask(row.steering.span, row.token_ids, row.prompt_length, control_ids)
            skip = min(skip, mask.index(True) if True in mask else skip)
    return skip
