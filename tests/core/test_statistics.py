"""Rates and Wilson's interval, against published values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saif.core.statistics import Rate, rate


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # the closed formula with z = 1.959964, worked out by hand
        (0, 10, 0.0, 0.27753),
        (5, 10, 0.23659, 0.76341),
        (10, 10, 0.72247, 1.0),
        (30, 50, 0.46181, 0.72391),
        (81, 263, 0.25530, 0.36621),  # Newcombe 1998, table I
        (15, 148, 0.06242, 0.16054),  # Newcombe 1998, table I
    ],
)
def test_wilson_s_interval(successes: int, n: int, low: float, high: float) -> None:
    assert Rate(successes, n).wilson() == pytest.approx((low, high), abs=2e-4)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_and_widens_with_confidence(counts: tuple[int, int]) -> None:
    found = Rate(*counts)
    low, high = found.wilson()
    assert -1e-9 <= low <= found.value + 1e-9
    assert found.value - 1e-9 <= high <= 1 + 1e-9
    wide_low, wide_high = found.wilson(0.99)
    assert wide_low <= low + 1e-9
    assert wide_high >= high - 1e-9


def test_a_rate_of_nothing_is_no_number() -> None:
    assert math.isnan(Rate(0, 0).value)


def test_outcomes_are_counted() -> None:
    assert rate([True, False, True]) == Rate(2, 3)
    assert rate([True, False, True]).value == pytest.approx(2 / 3)
