"""Steerings as values, and adding directions where a mask says so."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saif.core.steering import Steering, add_where, weighted_sum
from saif.errors import SteeringError

V = torch.tensor([3.0, 4.0, 0.0])


def at(layer: int, vector: torch.Tensor = V, dose: float = 0.5, span: str = "all") -> Steering:
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


def test_directions_of_one_layer_add_up_and_so_does_their_dose() -> None:
    """Residuals of length 10: doses 0.5 and 1.2 are lengths 5 and 12, at right angles 13."""
    total = at(1, V, 0.5) + at(1, torch.tensor([0.0, 0.0, 12.0]), 1.2)
    assert total.directions[1].tolist() == [3, 4, 12]
    assert total.dose[1] == pytest.approx(1.3)


def test_directions_of_several_layers_are_kept_apart() -> None:
    total = at(1) + at(2, 2 * V, 1.5)
    assert {layer: v.tolist() for layer, v in total.directions.items()} == {
        1: [3, 4, 0],
        2: [6, 8, 0],
    }
    assert total.dose == {1: 0.5, 2: 1.5}


def test_adding_changes_neither_part() -> None:
    one, two = at(1), at(1)
    _ = one + two
    assert one.directions[1].tolist() == two.directions[1].tolist() == [3, 4, 0]
    assert one.dose == {1: 0.5}


def test_opposite_pushes_leave_nothing_to_add() -> None:
    total = at(1) + at(1, -V)
    assert (total.directions, total.dose) == ({}, {})
    assert (at(1) + at(2) + at(1, -V)).dose == {2: 0.5}


def test_steerings_of_different_spans_do_not_add_up() -> None:
    with pytest.raises(SteeringError, match="spans"):
        at(1, span="all") + at(1, span="prompt")


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
    edited = add_where(resid, directions, torch.tensor(mask))
    for row in range(2):
        for position in range(3):
            expected = resid[row, position] + mask[row][position] * directions[row]
            assert torch.equal(edited[row, position], expected)
    assert torch.equal(resid, before)  # a new tensor, never an edit in place


def test_a_nan_direction_reaches_only_the_positions_it_is_meant_for() -> None:
    resid = torch.ones(2, 2, 3)
    directions = torch.tensor([[math.nan] * 3, [1.0] * 3])
    edited = add_where(resid, directions, torch.tensor([[False, True], [False, False]]))
    assert edited[0, 1].isnan().all()
    edited[0, 1] = 1
    assert torch.equal(edited, resid)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_residual_keeps_its_dtype(dtype: torch.dtype) -> None:
    resid = torch.ones(1, 1, 3, dtype=dtype)
    assert add_where(resid, V[None], torch.tensor([[True]])).dtype == dtype
