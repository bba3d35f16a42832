"""Strengths of several arms from votes on pairs."""

import itertools
import random

import numpy as np
import pytest
from made_up_votes import vote
from scipy.optimize import minimize

from saif.errors import InputError
from saif.study.analysis.bradley_terry import bradley_terry
from saif.study.participation.votes import Vote

TRUE = {"a": 0.7, "b": 0.1, "c": -0.2, "d": -0.6}


def tournament(seed: int, people: int, each: int, ties: float) -> list[Vote]:
    """Votes drawn from Davidson's model with strengths TRUE and ν = `ties`."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.permutations(TRUE, 2))
    made = []
    for person in range(people):
        for place in range(each):
            left, right = pairs[rng.integers(len(pairs))]
            one, other = np.exp(TRUE[left]), np.exp(TRUE[right])
            weights = np.array([one, other, ties * np.sqrt(one * other)])
            choice = ["L", "R", "tie"][rng.choice(3, p=weights / weights.sum())]
            made.append(vote(f"{person}-{place}", f"p{person}", choice, left=left, right=right))
    return made


def by_another_optimiser(votes: list[Vote], arms: list[str]) -> tuple[dict[str, float], float]:
    """The likelihood as it stands in the paper, vote by vote, maximised without derivatives of
    ours. The last strength is fixed by their sum."""

    def loss(x: np.ndarray) -> float:
        strengths = dict(zip(arms, [*x[:-1], -x[:-1].sum()], strict=True))
        tie = np.exp(x[-1])
        total = 0.0
        for one in votes:
            left, right = np.exp(strengths[one.left]), np.exp(strengths[one.right])
            drawn = tie * np.sqrt(left * right)
            won = {"L": left, "R": right}.get(one.choice, drawn)
            total -= np.log(won / (left + right + drawn))
        return total

    found = minimize(loss, np.zeros(len(arms)), method="BFGS", options={"gtol": 1e-7}).x
    return dict(zip(arms, [*found[:-1], -found[:-1].sum()], strict=True)), float(np.exp(found[-1]))


def test_the_fit_is_that_of_an_independent_optimiser() -> None:
    votes = tournament(0, 20, 10, ties=0.5)
    found = bradley_terry(votes, resamples=20)
    strengths, tie = by_another_optimiser(votes, sorted(TRUE))
    assert found.strengths == pytest.approx(strengths, abs=2e-6)
    assert found.tie == pytest.approx(tie, abs=2e-6)
    assert not found.pseudo_counts


@pytest.mark.parametrize("ties", [0.0, 0.6])
def test_known_strengths_are_found(ties: float) -> None:
    found = bradley_terry(tournament(1, 300, 20, ties), resamples=200)
    assert found.strengths == pytest.approx(TRUE, abs=0.1)
    assert found.tie == pytest.approx(ties, abs=0.1)
    for one in found.contrasts:
        truth = TRUE[one.first] - TRUE[one.second]
        assert one.low is not None
        assert one.high is not None
        assert one.low < truth < one.high
        assert one.p is not None
        assert one.p < 0.001
    assert found.ranks == {"a": (1, 1), "b": (2, 2), "c": (3, 3), "d": (4, 4)}


def test_two_arms_without_ties_are_the_log_odds() -> None:
    votes = [vote(str(i), f"p{i % 6}", "L" if i < 30 else "R") for i in range(40)]
    found = bradley_terry(votes, resamples=50).strengths
    assert found["steered"] - found["unsteered"] == pytest.approx(np.log(3), abs=1e-9)


def test_people_are_resampled_and_not_votes() -> None:
    """Twenty people of one mind each know less than two hundred that vote once."""
    outcomes = ["L"] * 13 + ["R"] * 7
    few = [vote(f"{i}-{j}", f"p{i}", outcomes[i]) for i in range(20) for j in range(10)]
    many = [vote(f"{i}-{j}", f"p{i}-{j}", outcomes[i]) for i in range(20) for j in range(10)]
    widths = []
    for votes in (few, many):
        (one,) = bradley_terry(votes, resamples=200).contrasts
        assert one.low is not None
        assert one.high is not None
        widths.append(one.high - one.low)
    assert widths[0] > 2 * widths[1]


def test_the_order_of_rows_and_the_sides_change_nothing() -> None:
    votes = tournament(3, 15, 8, ties=0.4)
    mirrored = [
        vote(one.trial, one.participant, {"L": "R", "R": "L"}.get(one.choice, one.choice),
             left=one.right, right=one.left)
        for one in random.Random(0).sample(votes, len(votes))
    ]  # fmt: skip
    assert bradley_terry(votes, resamples=20) == bradley_terry(mirrored, resamples=20)


@pytest.mark.parametrize("choices", ["L" * 10, "TTTTTTTTTT", "LLLLLTTTTT"])
def test_votes_that_leave_a_strength_infinite_get_pseudo_counts(choices: str) -> None:
    told = {"L": "L", "T": "tie"}
    votes = [vote(str(i), f"p{i % 5}", told[one]) for i, one in enumerate(choices)]
    found = bradley_terry(votes, resamples=50)
    assert found.pseudo_counts
    assert all(np.isfinite(value) for value in found.strengths.values())
    assert np.isfinite(found.tie)
    assert found.strengths["steered"] >= found.strengths["unsteered"]


def test_people_who_do_not_differ_give_no_interval() -> None:
    votes = [vote(f"{i}-{c}", f"p{i}", c) for i in range(5) for c in "LR"]
    found = bradley_terry(votes, resamples=50)
    (one,) = found.contrasts
    assert (one.low, one.high, one.p) == (None, None, None)
    assert found.ranks == {"steered": (1, 2), "unsteered": (1, 2)}


def test_what_cannot_be_compared_is_refused() -> None:
    apart = [
        vote("1", "p0"),
        vote("2", "p1", "R"),
        vote("3", "p0", left="x", right="y"),
        vote("4", "p1", "R", left="x", right="y"),
    ]
    with pytest.raises(InputError, match="never compared"):
        bradley_terry(apart, resamples=10)
    with pytest.raises(InputError, match="with itself"):
        bradley_terry([*apart, vote("5", left="x", right="x")], resamples=10)
    with pytest.raises(InputError, match="more than one vote"):
        bradley_terry([*apart, apart[0]], resamples=10)
    for few in ([], [vote("1", "p0"), vote("2", "p0", "R")]):
        with pytest.raises(InputError, match="at least two"):
            bradley_terry(few, resamples=10)


def test_a_resample_without_the_only_one_who_saw_an_arm_does_not_fall_apart() -> None:
    votes = [vote(f"{i}-{k}", f"p{i}", c) for i in range(5) for k, c in enumerate("LLR")]
    votes += [vote(f"x-{i}", "only", c, right="rare") for i, c in enumerate("LR")]
    found = bradley_terry(votes, resamples=100)
    assert set(found.strengths) == {"steered", "unsteered", "rare"}
