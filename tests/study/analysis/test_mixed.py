"""The mixed logistic regression, against numerical integration and plain logistic regression."""

import math
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from made_up_data import data_of, length_of_first, trial_rows
from made_up_votes import planted
from scipy.optimize import minimize
from scipy.special import expit

from saif.study.analysis.design_matrix import Design, design
from saif.study.analysis.mixed import fit_mixed, population_share
from saif.study.analysis.observations import observations

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def made_up(seed: int, people: int, votes: int, prompts: int, sds: tuple[float, float]) -> Design:
    """Log odds of 0.5, a side effect of 1, and levels with these standard deviations."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), votes)
    what = np.tile(np.arange(votes) % prompts, people) if prompts else np.array([], dtype=int)
    left = np.where(rng.random(people * votes) < 0.5, 0.5, -0.5)
    eta = 0.5 + left + sds[0] * rng.normal(size=people)[who]
    if prompts:
        eta = eta + sds[1] * rng.normal(size=prompts)[what]
    y = (rng.random(people * votes) < expit(eta)).astype(float)
    return Design(
        y=y,
        x=np.column_stack([np.ones(len(y)), left]),
        names=("preset", "left"),
        n_presets=1,
        participants=who,
        prompts=what,
    )


def integrated(made: Design) -> np.ndarray:
    """Maximum likelihood with one level per participant, integrated over 60 nodes."""

    def loss(at: np.ndarray) -> float:
        eta = (made.x @ at[:2])[:, None] + math.exp(at[2]) * NODES
        each = made.y[:, None] * eta - np.logaddexp(0, eta)
        of_person = np.zeros((made.n_participants, len(NODES)))
        np.add.at(of_person, made.participants, each)
        return -float(np.log(np.exp(of_person) @ WEIGHTS).sum())

    return np.asarray(minimize(loss, [0.0, 0.0, -0.5], method="BFGS").x)


@pytest.mark.parametrize("seed", [1, 2])
def test_it_comes_close_to_the_exact_integral(seed: int) -> None:
    made = made_up(seed, 60, 15, 0, (0.8, 0.0))
    found, wanted = fit_mixed(made), integrated(made)
    assert found.converged
    assert found.coefficients == pytest.approx(wanted[:2], abs=0.02)
    assert found.sd_participants == pytest.approx(math.exp(wanted[2]), abs=0.05)
    assert found.sd_prompts == 0


def test_without_differences_it_is_plain_logistic_regression() -> None:
    made = made_up(7, 40, 8, 0, (0.0, 0.0))
    mixed_up = np.random.default_rng(0).permutation(made.participants)
    made = replace(made, participants=mixed_up)
    found = fit_mixed(made)
    plain = sm.Logit(made.y, made.x).fit(disp=0)
    assert found.sd_participants < 0.25
    assert found.coefficients == pytest.approx(plain.params, abs=0.03)
    assert np.sqrt(np.diag(found.covariance)) == pytest.approx(plain.bse, rel=0.1)


def test_both_spreads_are_recovered_on_average() -> None:
    """Twenty studies with the levels of 40 people and 20 prompts crossed."""
    fits = [fit_mixed(made_up(seed, 40, 20, 20, (0.7, 0.5))) for seed in range(20)]
    assert np.mean([fit.coefficients[1] for fit in fits]) == pytest.approx(1.0, abs=0.1)
    assert np.mean([fit.coefficients[0] for fit in fits]) == pytest.approx(0.5, abs=0.1)
    assert np.mean([fit.sd_participants for fit in fits]) == pytest.approx(0.7, abs=0.08)
    assert np.mean([fit.sd_prompts for fit in fits]) == pytest.approx(0.5, abs=0.08)
    # The errors tell how far the estimates scatter.
    scatter = np.std([fit.coefficients[0] for fit in fits], ddof=1)
    told = np.mean([math.sqrt(fit.covariance[0, 0]) for fit in fits])
    assert told == pytest.approx(scatter, rel=0.3)


def test_an_average_over_people_is_nearer_to_a_half() -> None:
    assert population_share(1.0, 0.0) == pytest.approx(expit(1.0))
    exact = np.mean(expit(1.0 + 1.5 * np.random.default_rng(0).normal(size=400_000)))
    assert population_share(1.0, 1.5) == pytest.approx(exact, abs=0.002)
    assert population_share(-1.0, 1.5) == pytest.approx(1 - population_share(1.0, 1.5))


def test_a_column_that_says_nothing_new_is_left_out() -> None:
    seen = observations(data_of(trial_rows(planted(1, 6, 4, 0.6))))
    assert design(seen, "steered", length=False).names[1:] == (
        "first arm on the left",
        "ten trials later",
    )
    left = [one for one in seen if one.first_left]
    assert "first arm on the left" not in design(left, "steered", length=False).names
    made = design(seen, "steered", length=True)
    column = made.x[:, made.names.index("twice as long")]
    assert column == pytest.approx([math.log2(length_of_first(one.position) / 20) for one in seen])
