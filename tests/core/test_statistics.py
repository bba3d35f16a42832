"""Rates, paired comparisons and their intervals, against published values and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saif.core.statistics import PairedTable, Rate, mcnemar, rate


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


# Paired outcomes


def table(both: int, first_only: int, second_only: int, neither: int) -> PairedTable:
    return mcnemar(
        [(True, True)] * both
        + [(True, False)] * first_only
        + [(False, True)] * second_only
        + [(False, False)] * neither
    )


def test_paired_outcomes_are_counted() -> None:
    found = table(3, 5, 2, 7)
    assert found == PairedTable(both=3, first_only=5, second_only=2, neither=7)
    assert (found.n, found.first, found.second) == (17, Rate(8, 17), Rate(5, 17))
    assert found.difference == pytest.approx(3 / 17)


@pytest.mark.parametrize(
    ("first_only", "second_only", "p"),
    [  # 2 · P(at least the larger count in n tosses of a coin), by hand
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (12, 2, 2 * (1 + 14 + 91) / 2**14),
        (1, 8, 2 * (1 + 9) / 2**9),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_s_exact_test(first_only: int, second_only: int, p: float) -> None:
    assert table(4, first_only, second_only, 9).p == pytest.approx(p)
    # Concordant pairs say nothing, and which of the two is called the first doesn't matter.
    assert table(0, second_only, first_only, 50).p == pytest.approx(p)


@pytest.mark.parametrize(
    ("cells", "low", "high"),
    [  # Newcombe 1998 (paired data), table II, method 10
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((14, 0, 0, 0), -0.2153, 0.2153),
        ((53, 0, 1, 0), -0.0977, 0.0496),
        ((12, 0, 4, 4), -0.3873, 0.0038),  # by hand; the correction for continuity tells here
    ],
)
def test_newcombe_s_paired_interval(
    cells: tuple[int, int, int, int], low: float, high: float
) -> None:
    assert table(*cells).interval() == pytest.approx((low, high), abs=1e-4)


@given(st.tuples(*[st.integers(0, 40)] * 4).filter(any))
def test_the_paired_interval_holds_the_difference_and_turns_with_the_sides(
    cells: tuple[int, int, int, int],
) -> None:
    found = PairedTable(*cells)
    low, high = found.interval()
    assert -1 <= low <= found.difference + 1e-9
    assert found.difference - 1e-9 <= high <= 1
    both, first_only, second_only, neither = cells
    turned = PairedTable(both, second_only, first_only, neither).interval()
    assert turned == pytest.approx((-high, -low))


def test_no_pairs_have_no_difference() -> None:
    assert math.isnan(mcnemar([]).difference)
    assert mcnemar([]).p == 1


@pytest.mark.parametrize(("share", "n"), [(0.05, 50), (0.3, 50), (0.5, 20), (0.9, 100)])
def test_wilson_s_interval_covers_the_truth_19_times_in_20(share: float, n: int) -> None:
    draws = np.random.default_rng(0).binomial(n, share, size=4000)
    counts, times = np.unique(draws, return_counts=True)
    covered = [low <= share <= high for low, high in (Rate(int(c), n).wilson() for c in counts)]
    # Four thousand draws leave ±0.7 points; at a rare rate and a small n no interval hits 95 %.
    assert 0.925 <= times @ np.array(covered) / 4000 <= 0.985


@pytest.mark.parametrize(
    "truth",  # both, first only, second only, neither
    [(0.4, 0.3, 0.1, 0.2), (0.6, 0.1, 0.1, 0.2), (0.1, 0.1, 0.3, 0.5), (0.25, 0.25, 0.25, 0.25)],
)
@pytest.mark.parametrize("n", [20, 50])
def test_the_paired_interval_covers_the_truth_19_times_in_20(
    truth: tuple[float, ...], n: int
) -> None:
    draws = np.random.default_rng(1).multinomial(n, truth, size=3000)
    tables, times = np.unique(draws, axis=0, return_counts=True)
    intervals = [PairedTable(*map(int, cells)).interval() for cells in tables]
    difference = truth[1] - truth[2]
    covered = [low <= difference <= high for low, high in intervals]
    assert 0.93 <= times @ np.array(covered) / 3000 <= 0.99


def test_the_exact_test_is_wrong_at_most_once_in_twenty() -> None:
    discordant = np.random.default_rng(2).binomial(18, 0.5, size=3000)
    counts, times = np.unique(discordant, return_counts=True)
    rejected = [PairedTable(10, int(b), 18 - int(b), 10).p < 0.05 for b in counts]
    assert 0.01 <= times @ np.array(rejected) / 3000 <= 0.05
