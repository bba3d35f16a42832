"""The number of participants, against the published table and a second simulation."""

import numpy as np
import pytest
from scipy import stats

from saif.errors import InputError
from saif.study.analysis.power import Scenario, participants_needed, power


@pytest.mark.parametrize(
    ("rate", "votes", "icc", "wanted"),
    [  # found by another simulation, of 80 % power
        (0.60, 10, 0.1, 39),
        (0.60, 20, 0.3, 65),
        (0.65, 10, 0.2, 26),
        (0.70, 10, 0.05, 9),
        (0.55, 20, 0.1, 115),
    ],
)
def test_the_number_of_participants_in_the_plan(
    rate: float, votes: int, icc: float, wanted: int
) -> None:
    found = participants_needed(Scenario(rate=rate, votes=votes, icc=icc))
    assert found.participants == pytest.approx(wanted, rel=0.07, abs=1)
    assert found.recruit == found.participants
    assert found.power >= 0.8


def test_power_agrees_with_a_simulation_that_asks_vote_by_vote() -> None:
    """Correlated votes made another way: each repeats the participant's first, or is new."""
    rng = np.random.default_rng(9)
    n, votes, rate, icc, sets = 30, 10, 0.62, 0.15, 1500
    # P(two votes come from the same draw) = √icc · √icc.
    own = rng.random((sets, n, 1)) < rate
    repeats = rng.random((sets, n, votes)) < np.sqrt(icc)
    new = rng.random((sets, n, votes)) < rate
    means = np.where(repeats, own, new).mean(axis=2)
    p = stats.ttest_1samp(means, 0.5, axis=1).pvalue
    found = power(Scenario(rate=rate, votes=votes, icc=icc), n)
    share, error = found.power, found.error
    assert share == pytest.approx((p < 0.05).mean(), abs=0.04)
    assert 0 < error < 0.01


def test_no_effect_is_found_as_often_as_alpha_says() -> None:
    share = power(Scenario(rate=0.5, icc=0.1), 40).power
    assert share == pytest.approx(0.05, abs=0.012)


def test_ties_random_answers_and_families_cost_power() -> None:
    plain = power(Scenario(rate=0.62), 40).power
    assert plain == pytest.approx(0.87, abs=0.02)
    assert power(Scenario(rate=0.62, ties=0.3), 40).power == pytest.approx(0.81, abs=0.02)
    assert power(Scenario(rate=0.62, random=0.09), 40).power == pytest.approx(0.81, abs=0.03)
    assert power(Scenario(rate=0.62, presets=5), 40).power < plain - 0.1


def test_exclusions_and_dropouts_are_made_up_for() -> None:
    found = participants_needed(Scenario(rate=0.65, exclusion=0.1, dropout=0.2), studies=1000)
    assert found.recruit == -(-found.participants * 100 // 72)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0},
        {"rate": float("nan")},
        {"votes": 0},
        {"icc": 1.0},
        {"ties": 1.0},
        {"presets": 0},
        {"alpha": 0.0},
        {"dropout": 1.0},
    ],
)
def test_impossible_scenarios_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Scenario(**{"rate": 0.6, **wrong})


def test_what_no_number_can_show_is_refused() -> None:
    with pytest.raises(InputError, match="no preference"):
        participants_needed(Scenario(rate=0.5))
    with pytest.raises(InputError, match="would be needed"):
        participants_needed(Scenario(rate=0.506, votes=1), studies=10)
    with pytest.raises(InputError, match="participants must lie"):
        power(Scenario(rate=0.6), 1)
    with pytest.raises(InputError, match="target"):
        participants_needed(Scenario(rate=0.6), target=1.0)
