"""Steerings as values, and adding directions where a mask says so."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from saif.core.steering import (
    FADED,
    LatentEncoder,
    Steering,
    add_direction,
    fade,
    span_weights,
    weighted_sum,
)
from saif.core.types import Schedule, Span
from saif.errors import SteeringError

V = torch.tensor([3.0, 4.0, 0.0])


def at(layer: int, vector: torch.Tensor = V, dose: float = 0.5, span: Span = "all") -> Steering:
    return Steering({layer: vector}, span, {layer: dose})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_direction_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(SteeringError, match="layer 2 holds NaN or infinite"):
        at(2, torch.tensor([1.0, bad, 0.0]))


def test_a_zero_direction_is_refused() -> None:
    with pytest.raises(SteeringError, match="is zero"):
        at(0, torch.zeros(3))


@pytest.mark.parametrize("dose", [0.0, -1.0, math.nan, math.inf])
def test_a_dose_that_is_none_is_refused(dose: float) -> None:
    with pytest.raises(SteeringError, match="dose"):
        at(0, dose=dose)


def test_a_layer_without_a_dose_is_refused() -> None:
    with pytest.raises(SteeringError, match="needs its dose"):
        Steering({0: V}, "all", {})


def test_a_matrix_is_refused() -> None:
    with pytest.raises(SteeringError, match="not a vector"):
        at(0, torch.ones(2, 2))


def test_a_direction_without_a_layer_is_refused() -> None:
    with pytest.raises(SteeringError, match="no other has one"):
        Steering({0: V}, "all", {0: 0.5, 1: 0.5})
    with pytest.raises(SteeringError, match="needs its dose"):
        Steering({}, "all", {})


def test_at_strength_nought_nothing_is_added_and_the_layers_are_known() -> None:
    off = Steering({}, "all", {3: 0.0, 1: 0.0}, latents={3: (7, 8), 1: (9,)}, strength=0.0)
    assert off.off
    assert (off.layers, off.k, off.total_dose, off.where) == ((3, 1), 2, 0.0, "layers 3 + 1")
    assert not at(1).off
    for directions, dose in (({0: V}, {0: 0.5}), ({0: V}, {0: 0.0}), ({}, {0: 0.5})):
        with pytest.raises(SteeringError, match="strength 0"):
            Steering(directions, "all", dose, strength=0.0)


def test_what_was_applied_is_told_for_all_layers_together() -> None:
    both = Steering({4: V, 2: V}, "all", {4: 0.5, 2: 0.25}, latents={4: (5,), 2: (1, 2)})
    assert (both.layers, both.k, both.total_dose, both.where) == ((4, 2), 1, 0.75, "layers 4 + 2")
    assert (at(1).k, at(1).where) == (0, "layer 1")


def test_a_weighted_sum_is_computed_in_float32() -> None:
    rows = torch.tensor([[256.0, 1.0], [1.0, 1.0]], dtype=torch.bfloat16)
    total = weighted_sum(rows, torch.tensor([1.0, 1.0], dtype=torch.bfloat16))
    assert total.dtype == torch.float32
    assert total.tolist() == [257, 2]  # bfloat16 has no 257


@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=2, max_size=2),
    st.integers(0, 99),
)
def test_adding_where_a_mask_is_true_adds_there_and_nowhere_else(
    mask: list[list[bool]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    resid = torch.randn(2, 3, 4, generator=generator)
    directions = torch.randn(2, 4, generator=generator)
    before = resid.clone()
    edited = add_direction(resid, directions, torch.tensor(mask).float())
    for row in range(2):
        for position in range(3):
            expected = resid[row, position] + mask[row][position] * directions[row]
            assert torch.equal(edited[row, position], expected)
    assert torch.equal(resid, before)  # a new tensor, never an edit in place


def test_a_nan_direction_reaches_only_the_positions_it_is_meant_for() -> None:
    resid = torch.ones(2, 2, 3)
    directions = torch.tensor([[math.nan] * 3, [1.0] * 3])
    edited = add_direction(resid, directions, torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert edited[0, 1].isnan().all()
    edited[0, 1] = 1
    assert torch.equal(edited, resid)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_residual_keeps_its_dtype(dtype: torch.dtype) -> None:
    resid = torch.ones(1, 1, 3, dtype=dtype)
    assert add_direction(resid, V[None], torch.tensor([[1.0]])).dtype == dtype


# Schedules: fading, keeping the norm, clamping


def test_without_a_half_life_nothing_fades() -> None:
    assert fade(10**6, None) == 1


def test_half_is_left_after_a_half_life_and_nothing_once_it_is_faint() -> None:
    assert fade(0, 8) == 1
    assert fade(8, 8) == 0.5
    assert fade(16, 8) == 0.25
    assert fade(34, 8) > FADED
    assert fade(35, 8) == 0


def test_weights_fade_with_the_reply_and_not_with_the_prompt() -> None:
    fading = Steering({0: V}, "all", {0: 1.0}, schedule=Schedule(half_life=1))
    weights = span_weights(fading, [9, 1, 2, 3, 4, 5], prompt_length=4, control_ids={9})
    assert weights == [0, 1, 1, 1, 0.5, 0.25]
    assert span_weights(fading, [9, 1, 2, 3, 4, 5], 4, {9}, start=5) == [0.25]


def test_a_weight_is_the_share_of_the_direction_that_is_added() -> None:
    edited = add_direction(torch.zeros(1, 2, 3), V[None], torch.tensor([[0.5, 0.25]]))
    assert edited.tolist() == [[[1.5, 2.0, 0.0], [0.75, 1.0, 0.0]]]


def test_a_row_that_keeps_its_norm_turns_and_the_others_grow() -> None:
    resid = torch.tensor([[[0.0, 0.0, 5.0]], [[0.0, 0.0, 5.0]]])
    edited = add_direction(resid, torch.stack([V, V]), torch.ones(2, 1), keep_norm=[1])
    assert edited[0, 0].tolist() == [3, 4, 5]
    assert edited[1, 0].norm() == pytest.approx(5)
    assert edited[1, 0].tolist() == pytest.approx([5 * x / math.sqrt(50) for x in (3, 4, 5)])


def test_clamped_latents_end_up_at_their_coefficients() -> None:
    """Two latents that read and write an axis each: one is set from 5 to 2, one from off to 7."""
    axes = torch.eye(3)[:2]
    encoder = LatentEncoder(axes, torch.tensor([0.0, -1.0]), torch.zeros(2), axes)
    resid = torch.tensor([[[5.0, 0.5, 9.0]], [[5.0, 0.5, 9.0]]])
    target = torch.tensor([2.0, 7.0, 0.0])
    edited = add_direction(
        resid, torch.stack([target, target]), torch.ones(2, 1), clamped={1: encoder}
    )
    assert edited[0, 0].tolist() == [7, 7.5, 9]  # added
    assert edited[1, 0].tolist() == [2, 7.5, 9]  # set; what lies below the bias stays
    half = add_direction(
        resid, torch.stack([target, target]), torch.ones(2, 1) / 2, clamped={1: encoder}
    )
    assert half[1, 0].tolist() == [3.5, 4, 9]


def test_a_latent_below_its_threshold_is_off() -> None:
    encoder = LatentEncoder(torch.eye(2), torch.zeros(2), torch.tensor([3.0, 3.0]), torch.eye(2))
    assert encoder.contribution(torch.tensor([2.0, 4.0])).tolist() == [0, 4]


def test_schedules_that_make_no_sense_are_refused() -> None:
    encoder = LatentEncoder(V[None], torch.zeros(1), torch.zeros(1), V[None])
    with pytest.raises(SteeringError, match="clamped at a steered layer"):
        Steering({1: V}, "all", {1: 0.5}, clamped={2: encoder})
    with pytest.raises(ValidationError, match="half_life"):
        Schedule(half_life=0)


def test_a_share_of_an_encoder_reads_the_same_and_writes_that_much() -> None:
    encoder = LatentEncoder(torch.eye(2), torch.zeros(2), torch.zeros(2), torch.eye(2))
    resid = torch.tensor([2.0, -4.0])
    assert encoder.scaled(0.5).contribution(resid).tolist() == [1, 0]
    assert encoder.scaled(1.0) is encoder
    assert encoder.contribution(resid).tolist() == [2, 0]
