"""Which latents are chosen and with what coefficients, on matrices made by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saif.core.selection import (
    MIN_OUTPUT_SCORE,
    LatentStatistics,
    at_dose,
    coefficients,
    latent_statistics,
    output_score,
    rank,
)
from saif.core.types import SELECTIONS, Selection

#                          always  half   never  falls  constant
WITHOUT = torch.tensor([[0.0, 0.0, 0.0, 6.0, 5.0], [1.0, 2.0, 0.0, 4.0, 5.0]])
WITH = torch.tensor([[2.0, 1.0, 0.0, 0.0, 5.0], [5.0, 2.0, 0.0, 0.0, 5.0]])
OTHER = torch.tensor([[1.0, 0.0, 1.0, 6.0, 5.0], [3.0, 1.0, 0.0, 9.0, 5.0]])


def made_of(**fields: list[float]) -> LatentStatistics:
    """Statistics with the given fields; the rest zero."""
    m = len(next(iter(fields.values())))
    names = [name for name in LatentStatistics.__dataclass_fields__ if name != "ids"]
    return LatentStatistics(
        ids=torch.arange(100, 100 + m),
        **{name: torch.tensor(fields.get(name, [0.0] * m)) for name in names},
    )


def test_statistics_are_what_a_person_would_count() -> None:
    found = latent_statistics(WITH, WITHOUT, OTHER)
    assert found.ids.tolist() == [0, 1, 2, 3, 4]
    assert found.sensitivity.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert found.other_sensitivity.tolist() == [1.0, 0.0, 0.5, 0.5, 0.0]
    assert found.mean.tolist() == [3.5, 1.5, 0.0, 0.0, 5.0]
    assert found.delta.tolist() == [3.0, 0.5, 0.0, -5.0, 0.0]
    assert found.std.tolist() == pytest.approx([4.5**0.5, 0.5**0.5, 0, 0, 0])
    assert found.delta_std.tolist() == pytest.approx([2**0.5, 0.5**0.5, 0, 2**0.5, 0])


def test_a_latent_that_is_always_on_is_not_sensitive() -> None:
    """Δ > 0, not a > 0: constant latents say nothing about the instruction."""
    constant = torch.full((4, 2), 7.0)
    found = latent_statistics(constant, constant, constant)
    assert found.sensitivity.tolist() == [0.0, 0.0]
    assert found.delta.tolist() == [0.0, 0.0]


def test_saif_ranks_by_sensitivity_and_breaks_ties_by_mean_delta() -> None:
    statistics = made_of(sensitivity=[0.5, 1.0, 1.0, 0.9, 1.0], delta=[99, 1, 3, 50, 2])
    assert rank(statistics, "saif").tolist() == [2, 4, 1, 3, 0]


def test_contrast_drops_latents_that_answer_to_any_instruction() -> None:
    statistics = made_of(
        sensitivity=[1.0, 1.0, 0.75], other_sensitivity=[1.0, 0.0, 0.0], delta=[9, 1, 2]
    )
    assert rank(statistics, "saif").tolist() == [0, 1, 2]
    assert rank(statistics, "contrast").tolist() == [1, 2, 0]


def test_contrast_breaks_ties_by_mean_delta_too() -> None:
    statistics = made_of(
        sensitivity=[1.0, 0.75, 1.0], other_sensitivity=[0.5, 0.25, 0.5], delta=[1, 3, 2]
    )
    assert rank(statistics, "contrast").tolist() == [1, 2, 0]


def test_signed_ranks_by_the_size_of_mean_delta_falling_latents_too() -> None:
    statistics = made_of(delta=[1, -5, 3, -2], sensitivity=[1, 0, 1, 0])
    assert rank(statistics, "signed").tolist() == [1, 2, 3, 0]


@given(
    st.permutations(range(8)),
    st.sampled_from(SELECTIONS),
    st.lists(st.integers(0, 4), min_size=8, max_size=8),
    st.lists(st.integers(-50, 50), min_size=8, max_size=8, unique_by=abs),
)
@settings(deadline=None)
def test_ranking_does_not_depend_on_the_order_of_the_latents(
    order: list[int], selection: Selection, sensitivity: list[int], delta: list[int]
) -> None:
    statistics = made_of(
        sensitivity=[s / 4 for s in sensitivity],
        other_sensitivity=[0.25] * 8,
        delta=[float(d) for d in delta],
    )
    shuffled = statistics.take(torch.tensor(order))
    best = statistics.ids[rank(statistics, selection)]
    assert shuffled.ids[rank(shuffled, selection)].tolist() == best.tolist()


def test_mean_coefficients_are_mu_plus_beta_sigma() -> None:
    statistics = made_of(mean=[4, 2], std=[1, 3], delta=[9, 9])
    assert coefficients(statistics, "mean", 0.0).tolist() == [4, 2]
    assert coefficients(statistics, "mean", 1.0).tolist() == [5, 5]
    assert coefficients(statistics, "mean", -0.5).tolist() == [3.5, 0.5]


def test_delta_coefficients_move_away_from_zero_with_beta() -> None:
    statistics = made_of(delta=[4, -2, 0], delta_std=[1, 3, 5], mean=[9, 9, 9])
    assert coefficients(statistics, "delta", 0.0).tolist() == [4, -2, 0]
    assert coefficients(statistics, "delta", 1.0).tolist() == [5, -5, 0]
    assert coefficients(statistics, "delta", -0.5).tolist() == [3.5, -0.5, 0]


@pytest.mark.parametrize("dose", [0.1, 0.5, 2.0])
def test_a_dose_is_the_length_beside_the_typical_residual(dose: float) -> None:
    vector = at_dose(torch.tensor([3.0, 4.0]), dose, residual_norm=20.0)
    assert float(vector.norm()) == pytest.approx(dose * 20)
    assert (vector / vector.norm()).tolist() == pytest.approx([0.6, 0.8])


def test_a_dose_of_a_half_precision_direction_does_not_overflow() -> None:
    wide = torch.full((2048,), 2000.0, dtype=torch.float16)  # its norm is beyond float16
    assert float(at_dose(wide, 0.5, 100.0).norm()) == pytest.approx(50.0)


def test_nothing_stays_nothing_at_any_dose() -> None:
    assert at_dose(torch.zeros(3), 0.5, 10.0).tolist() == [0, 0, 0]
    assert at_dose(torch.ones(3), 0.0, 10.0).tolist() == [0, 0, 0]


def test_an_output_score_is_how_much_a_latents_own_words_gain() -> None:
    """Two words at even odds; steering that makes one three times the other gives it log 1.5."""
    plain = torch.zeros(2)
    steered = torch.tensor([[math.log(3.0), 0.0], [5.0, 5.0]])
    scores = output_score(plain, steered, torch.tensor([[0], [0]]))
    assert scores.tolist() == pytest.approx([math.log(1.5), 0.0])
    both = output_score(plain, steered[:1], torch.tensor([[0, 1]]))
    assert both.tolist() == pytest.approx([(math.log(1.5) + math.log(0.5)) / 2])


def test_output_ranks_latents_that_move_their_words_before_stronger_ones_that_do_not() -> None:
    found = made_of(delta=[1.0, -9.0, 4.0, -2.0], output_score=[2.0, 0.1, MIN_OUTPUT_SCORE, 5.0])
    assert rank(found, "output").tolist() == [2, 3, 0, 1]
    assert rank(found, "signed").tolist() == [1, 2, 3, 0]
