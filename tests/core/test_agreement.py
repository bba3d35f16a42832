"""Cohen's κ against tables worked out by hand."""

import pytest

from saif.core.statistics import cohens_kappa


def pairs(table: list[list[int]]) -> tuple[list[str], list[str]]:
    """The two judges' labels: row i, column j holds how often they said i and j."""
    told = [
        (f"label {i}", f"label {j}")
        for i, row in enumerate(table)
        for j, count in enumerate(row)
        for _ in range(count)
    ]
    return [one for one, _ in told], [other for _, other in told]


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ([[20, 5], [10, 15]], 0.2 / 0.5),  # agree 0.7, by chance 0.5 * 0.6 + 0.5 * 0.4
        ([[45, 15], [25, 15]], 0.06 / 0.46),  # agree 0.6, by chance 0.6 * 0.7 + 0.4 * 0.3
        ([[3, 0], [0, 5]], 1.0),
        ([[0, 2], [3, 0]], -0.48 / 0.52),  # agree 0, by chance 0.4 * 0.6 + 0.6 * 0.4
        ([[3, 2], [0, 0]], 0.0),  # the first judge uses one label only
        ([[2, 1, 0], [0, 3, 1], [1, 0, 2]], 0.36 / 0.66),  # agree 0.7, by chance 0.09+0.16+0.09
    ],
)
def test_kappa_of_known_tables(table: list[list[int]], value: float) -> None:
    found = cohens_kappa(*pairs(table))
    assert found is not None
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.n == sum(map(sum, table))


def test_the_interval_is_that_of_fleiss_cohen_and_everitt() -> None:
    found = cohens_kappa(*pairs([[20, 5], [10, 15]]))
    assert found is not None
    # A = 0.10972, B = 0.10188, C = 0.01, so the variance is 0.2016 / (0.5 ** 2 * 50) = 0.016128.
    spread = 1.959964 * 0.016128**0.5
    assert (found.low, found.high) == pytest.approx((0.4 - spread, 0.4 + spread), abs=1e-6)


def test_the_interval_stays_between_minus_one_and_one() -> None:
    found = cohens_kappa(*pairs([[3, 1], [1, 4]]))
    assert found is not None
    assert found.high == 1.0
    assert found.low is not None
    assert -1 < found.low < found.value
    opposite = cohens_kappa(*pairs([[0, 2], [3, 0]]))
    assert opposite is not None
    assert opposite.low == -1.0


@pytest.mark.parametrize(
    "table",
    [[[3, 0], [0, 3]], [[3, 2], [0, 0]], [[2, 4], [0, 0]], [[0, 0], [5, 0]]],  # the third: NaN
)
def test_no_interval_where_its_formula_has_no_width(table: list[list[int]]) -> None:
    found = cohens_kappa(*pairs(table))
    assert found is not None
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("table", [[], [[4]]])
def test_kappa_is_undefined_without_two_labels(table: list[list[int]]) -> None:
    assert cohens_kappa(*pairs(table)) is None


def test_sequences_of_unlike_length_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="shorter"):
        cohens_kappa([True, False], [True])
