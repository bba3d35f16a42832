"""Agreement, retests and blinding."""

import itertools
import math
import random

import pytest
from made_up_data import data_of, trial_row
from made_up_votes import vote

from saif.errors import InputError
from saif.study.analysis.estimates import bang_index, krippendorffs_alpha, ratings_of
from saif.study.analysis.quality import quality
from saif.study.participation.votes import Choice

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), part C: four observers, twelve
# units, missing values left out. It gives α = 0.743 for nominal data.
PUBLISHED = {
    1: "111", 2: "2223", 3: "3333", 4: "3333", 5: "2222", 6: "1234",
    7: "4444", 8: "1121", 9: "2222", 10: "555", 11: "11", 12: "3",
}  # fmt: skip


def test_alpha_of_a_published_table() -> None:
    assert krippendorffs_alpha(PUBLISHED) == pytest.approx(0.743, abs=5e-4)


def alpha_by_pairs(ratings: dict[int, str]) -> float:
    """1 - observed / expected disagreement, counted pair by pair as the definition says."""
    kept = [labels for labels in ratings.values() if len(labels) > 1]
    n = sum(map(len, kept))
    observed = sum(
        sum(a != b for a, b in itertools.permutations(labels, 2)) / (len(labels) - 1)
        for labels in kept
    )
    pooled = [label for labels in kept for label in labels]
    expected = sum(a != b for a, b in itertools.permutations(pooled, 2)) / (n - 1)
    return 1 - observed / expected


def test_alpha_equals_its_definition() -> None:
    rng = random.Random(0)
    for _ in range(20):
        ratings = {i: "".join(rng.choices("LRTB", k=rng.randint(1, 5))) for i in range(12)}
        wanted = pytest.approx(alpha_by_pairs(ratings), abs=1e-10)
        assert krippendorffs_alpha(ratings) == wanted


@pytest.mark.parametrize("ratings", [{}, {1: "L"}, {1: "LL", 2: "LLL"}, {1: "L", 2: "R"}])
def test_alpha_is_none_where_it_is_undefined(ratings: dict[int, str]) -> None:
    assert krippendorffs_alpha(ratings) is None


def test_ratings_name_the_arm_and_not_the_side() -> None:
    votes = [
        vote("1", "a", "L", prompt="q"),
        vote("2", "b", "R", left="unsteered", right="steered", prompt="q"),
        vote("3", "c", "tie", prompt="q"),
        vote("4", "d", "skip", prompt="q"),
        vote("5", "e", "L"),
    ]
    assert ratings_of(votes) == {("q", "steered", "unsteered"): ["steered", "steered", "tie"]}


def pair(person: str, first: Choice, second: Choice) -> list:
    """Rows of a trial and of its retest, in which the sides are swapped."""
    again = vote(f"{person}-2", person, second, left="unsteered", right="steered")
    return [
        trial_row(vote(f"{person}-1", person, first), 1),
        trial_row(again, 2, kind="retest", retest_of=1),
    ]


def test_a_retest_flips_where_the_answer_changes_and_not_where_the_side_does() -> None:
    rows = [*pair("a", "L", "R"), *pair("b", "L", "L"), *pair("c", "tie", "tie")]
    rows += pair("f", "R", "L")
    alone = pair("e", "L", "R")[1:]
    found = quality(data_of([*rows, *pair("d", "tie", "skip"), *alone])).steadiness
    assert found is not None
    assert found.flips.value == pytest.approx(1 / 4)
    assert (found.pairs, found.flips.n_votes) == (4, 4)
    # By hand: 3 of 4 agree; steered .5/.25, unsteered .25/.5, tie .25/.25 agree by chance 5/16.
    assert found.kappa == pytest.approx((3 / 4 - 5 / 16) / (1 - 5 / 16))


def test_bang_s_index_by_his_other_formula() -> None:
    """(2 · right / (right + wrong) - 1) · (right + wrong) / n, with its multinomial variance."""
    right, wrong, unsure = 30, 12, 18
    value, low, high = bang_index(right, wrong, unsure)
    share = right / (right + wrong)
    assert value == pytest.approx((2 * share - 1) * 42 / 60, abs=1e-12)
    p, q = right / 60, wrong / 60
    spread = 1.959963985 * math.sqrt((p + q - (p - q) ** 2) / 60)
    assert (low, high) == pytest.approx((value - spread, value + spread))


def test_balanced_guessing_is_blind() -> None:
    value, low, high = bang_index(25, 25, 10)
    assert value == 0
    assert low == -high


@pytest.mark.parametrize(
    ("counts", "wanted"), [((20, 0, 0), 1), ((0, 20, 0), -1), ((0, 0, 20), 0), ((1, 0, 0), 1)]
)
def test_where_all_guess_alike_the_interval_has_width(
    counts: tuple[int, int, int], wanted: float
) -> None:
    value, low, high = bang_index(*counts)
    assert value == wanted
    assert -1 <= low <= value <= high <= 1
    assert high - low > 0.1


def test_no_guesses_are_refused() -> None:
    with pytest.raises(InputError, match="no guesses"):
        bang_index(0, 0, 0)
