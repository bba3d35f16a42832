"""The estimand, its intervals and tests: against independent computations and by simulation."""

import itertools
import math
import random

import numpy as np
import pytest
import statsmodels.api as sm
from made_up_votes import planted, vote
from scipy import optimize, stats
from statsmodels.stats.weightstats import DescrStatsW

from saif.errors import InputError
from saif.study.analysis.estimates import (
    Estimate,
    estimate,
    estimate_two_way,
    icc,
    participant_means,
    sign_flip_p,
)
from saif.study.participation.votes import Score, left_scores, preference_scores

UNEVEN = [  # participants with unequal numbers of votes, some of them ties
    *[Score("a", f"q{i}", value) for i, value in enumerate([1, 1, 0, 0.5, 1, 0])],
    *[Score("b", f"q{i}", value) for i, value in enumerate([1, 0, 0])],
    *[Score("c", f"q{i}", value) for i, value in enumerate([1, 1, 1, 1, 0.5])],
    *[Score("d", f"q{i}", value) for i, value in enumerate([0, 1])],
    Score("e", "q2", 1),
]
EXACT = pytest.approx


def same(found: float, wanted: float) -> bool:
    return found == EXACT(wanted, abs=1e-10, rel=1e-10)


# Scores


def test_a_vote_counts_for_the_arm_it_chose_and_a_tie_for_half() -> None:
    votes = [
        vote("1", choice="L"),
        vote("2", choice="R"),
        vote("3", choice="R", left="unsteered", right="steered"),
        vote("4", choice="tie"),
        vote("5", choice="both_bad"),
        vote("6", choice="skip"),
        vote("7", choice="L", left="prompted"),
    ]
    scores = preference_scores(votes, "steered")
    assert [score.value for score in scores] == [1, 0, 1, 0.5, 0.5]
    assert [score.value for score in preference_scores(votes, "steered", ties="drop")] == [1, 0, 1]
    assert [score.value for score in left_scores(votes)] == [1, 0, 0, 0.5, 0.5, 1]


def test_duplicated_rows_are_refused() -> None:
    votes = [vote("1"), vote("2"), vote("1")]
    for scores in (lambda: preference_scores(votes, "steered"), lambda: left_scores(votes)):
        with pytest.raises(InputError, match="Trial '1' has more than one vote"):
            scores()


# The estimand and its clustered variance


def test_every_participant_weighs_the_same() -> None:
    one_busy = [Score("busy", None, 1)] * 90 + [Score(f"p{i}", None, 0) for i in range(9)]
    assert estimate(one_busy).value == 0.1


def test_the_t_test_is_scipy_s_on_participant_means() -> None:
    found = estimate(UNEVEN)
    means = list(participant_means(UNEVEN).values())
    wanted = stats.ttest_1samp(means, 0.5)
    test = found.t_test()
    assert test is not None
    assert same(found.value, float(np.mean(means)))
    assert same(test[0], wanted.statistic)
    assert same(test[1], wanted.pvalue)
    bounds = wanted.confidence_interval()
    assert found.t_interval() == EXACT((max(0, bounds.low), min(1, bounds.high)), abs=1e-10)


def weighted_least_squares(scores: list[Score], groups: np.ndarray) -> object:
    """The mean as a regression on a constant: statsmodels knows its clustered variance."""
    counts = {who: sum(s.participant == who for s in scores) for who in participant_means(scores)}
    weights = [1 / counts[score.participant] for score in scores]
    model = sm.WLS([score.value for score in scores], np.ones(len(scores)), weights=weights)
    return model.fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": True})


def test_the_clustered_variances_are_statsmodels_own() -> None:
    rng = np.random.default_rng(4)
    for prompts in (3, 8):
        scores = [
            Score(f"p{i}", f"q{j}", float(rng.random() < 0.3 + 0.4 * (j % 2)))
            for i, j in itertools.product(range(9), range(prompts))
            if rng.random() < 0.8
        ]
        who = np.unique([score.participant for score in scores], return_inverse=True)[1]
        what = np.unique([score.prompt for score in scores], return_inverse=True)[1]
        one_way = weighted_least_squares(scores, who)
        assert same(estimate(scores).variance, one_way.cov_params()[0, 0])
        two_way = weighted_least_squares(scores, np.column_stack([who, what]))
        by_prompt = weighted_least_squares(scores, what).cov_params()[0, 0]
        found = estimate_two_way(scores)
        larger = max(
            two_way.cov_params()[0, 0], one_way.cov_params()[0, 0], by_prompt
        )  # never below clustering one way
        assert same(found.variance, larger)
        assert found.df == min(9, prompts) - 1
        assert same(found.value, one_way.params[0])


def test_votes_that_share_prompts_widen_the_interval() -> None:
    alike = [Score(f"p{i}", f"q{j}", float(j % 2)) for i in range(20) for j in range(10)]
    assert estimate(alike).variance == 0  # all participants have the same mean …
    low, high = estimate_two_way(alike).t_interval()
    assert high - low > 0.5  # … and all of it is the prompts


def test_clustering_by_prompt_needs_prompts() -> None:
    with pytest.raises(InputError, match="prompt of every vote"):
        estimate_two_way([Score("a", None, 1), Score("b", "q", 0)])


# Intervals


def score_test_bound(share: float, n: float, z: float, side: float) -> float:
    """Where |p̂ - p| = z √(p(1-p)/n): Wilson's interval by its definition."""
    gap = lambda p: (share - p) ** 2 - z**2 * p * (1 - p) / n  # noqa: E731
    return optimize.brentq(gap, share, side, xtol=1e-15)


def test_wilson_and_clopper_pearson_by_their_definitions() -> None:
    found = estimate(UNEVEN)
    n, z = found.n_eff(), stats.norm.ppf(0.975)
    wanted = score_test_bound(found.value, n, z, 0.0), score_test_bound(found.value, n, z, 1.0)
    assert found.interval("wilson") == EXACT(wanted, abs=1e-10)
    wins = found.value * n
    assert same(stats.beta.cdf(found.interval("beta")[0], wins, n - wins + 1), 0.025)
    assert same(stats.beta.sf(found.interval("beta")[1], wins + 1, n - wins), 0.025)


def test_the_effective_number_of_votes_by_hand() -> None:
    scores = [
        Score(f"p{i}", None, float(j < wins))
        for i, wins in enumerate([9, 5, 2, 8])
        for j in range(10)
    ]
    found = estimate(scores)
    variance = np.var([0.9, 0.5, 0.2, 0.8], ddof=1) / 4
    effect = variance / (0.6 * 0.4 / 40)
    assert same(found.value, 0.6)
    assert same(found.design_effect, effect)
    assert same(found.n_eff(), 40 / effect * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 3)) ** 2)


def test_a_design_effect_below_one_earns_no_extra_votes() -> None:
    even = [Score(f"p{i}", None, float(j % 2)) for i in range(10) for j in range(10)]
    adjust = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 9)) ** 2
    assert same(estimate(even).n_eff(), 100 * adjust)


def coverage(participants: int, correlation: float, rate: float, sets: int) -> tuple[float, float]:
    """How often the headline interval holds the truth, and how often the test rejects it."""
    held = rejected = 0
    for seed in range(sets):
        scores = preference_scores(planted(seed, participants, 10, rate, correlation), "steered")
        found = estimate(scores)
        low, high = found.interval()
        held += low <= rate <= high
        test = found.t_test(rate)
        rejected += test is not None and test[1] < 0.05
    return held / sets, rejected / sets


@pytest.mark.parametrize(("participants", "correlation"), [(12, 0.3), (24, 0.1), (24, 0.0)])
def test_the_interval_covers_and_the_test_errs_as_often_as_they_say(
    participants: int, correlation: float
) -> None:
    held, rejected = coverage(participants, correlation, 0.5, 200)
    assert held >= 0.92  # 0.95 less two standard errors of 200 sets
    assert 0.02 <= rejected <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize("participants", [12, 24, 60])
@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("rate", [0.5, 0.65])
def test_coverage_on_two_thousand_sets(participants: int, correlation: float, rate: float) -> None:
    held, rejected = coverage(participants, correlation, rate, 2000)
    assert 0.93 <= held <= 0.99
    assert 0.03 <= rejected <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [6, 10, 30])
def test_two_way_coverage_where_prompts_differ(prompts: int) -> None:
    rng = np.random.default_rng(0)
    held = {"one": 0, "two": 0}
    sets = 1000
    for _ in range(sets):
        people, questions = rng.normal(0, 0.5, (40, 1)), rng.normal(0, 0.5, prompts)
        wins = rng.random((40, prompts)) < stats.norm.cdf(people + questions)
        scores = [
            Score(f"p{i}", f"q{j}", float(wins[i, j])) for i in range(40) for j in range(prompts)
        ]
        for name, found in (("one", estimate(scores)), ("two", estimate_two_way(scores))):
            low, high = found.t_interval()
            held[name] += low <= 0.5 <= high
    assert held["one"] / sets < 0.9
    assert 0.92 <= held["two"] / sets <= 0.98


# Invariances


def test_the_order_of_rows_changes_no_digit() -> None:
    votes = planted(1, 20, 8, 0.6, 0.2, ties=0.2)  # enough for drawn sign flips
    shuffled = random.Random(0).sample(votes, len(votes))
    for analyse in (estimate, estimate_two_way, icc, sign_flip_p):
        assert analyse(preference_scores(votes, "steered")) == analyse(
            preference_scores(shuffled, "steered")
        )


def test_swapping_the_arms_mirrors_the_result() -> None:
    votes = planted(2, 15, 8, 0.6, 0.2, ties=0.2)
    one = estimate(preference_scores(votes, "steered"))
    other = estimate(preference_scores(votes, "unsteered"))
    assert same(one.value, 1 - other.value)
    assert one.interval("wilson") == EXACT(
        tuple(1 - bound for bound in reversed(other.interval("wilson"))), abs=1e-12
    )
    assert sign_flip_p(preference_scores(votes, "steered")) == EXACT(
        sign_flip_p(preference_scores(votes, "unsteered")), abs=0.01
    )


# The permutation test


def test_all_sign_flips_are_counted() -> None:
    scores = preference_scores(planted(3, 9, 5, 0.7, 0.1), "steered")
    deviations = np.array(list(participant_means(scores).values())) - 0.5
    flips = np.array(list(itertools.product([1, -1], repeat=9)))
    extreme = np.abs(flips @ deviations) >= abs(deviations.sum()) - 1e-9
    assert same(sign_flip_p(scores), extreme.mean())


def test_drawn_flips_come_near_the_exact_p() -> None:
    scores = preference_scores(planted(5, 30, 10, 0.57, 0.1), "steered")
    test = estimate(scores).t_test()
    assert test is not None
    assert sign_flip_p(scores) == EXACT(test[1], abs=0.01)
    assert sign_flip_p(scores, seed=1) == EXACT(sign_flip_p(scores), abs=0.01)


def test_five_unanimous_participants_cannot_reach_five_percent() -> None:
    assert sign_flip_p([Score(f"p{i}", None, 1) for i in range(5)]) == 2 / 2**5


# Agreement within participants, position, several tests


def test_icc_is_the_variance_component_of_an_anova() -> None:
    groups: dict[str, list[float]] = {}
    for score in UNEVEN:
        groups.setdefault(score.participant, []).append(score.value)
    f = stats.f_oneway(*groups.values()).statistic
    sizes = np.array([len(group) for group in groups.values()])
    size = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (len(sizes) - 1)
    assert same(icc(UNEVEN), (f - 1) / (f + size - 1))


def test_icc_finds_what_was_planted() -> None:
    found = icc(preference_scores(planted(6, 300, 10, 0.5, 0.3), "steered"))
    assert found == EXACT(0.3, abs=0.05)


def test_a_side_bias_shows_in_the_left_share_and_not_in_the_preference() -> None:
    always_left = [
        vote(f"{i}-{j}", f"p{i}", "L", left=arms[0], right=arms[1])
        for i in range(10)
        for j, arms in enumerate([("steered", "unsteered"), ("unsteered", "steered")] * 3)
    ]
    assert estimate(left_scores(always_left)).value == 1
    assert estimate(preference_scores(always_left, "steered")).value == 0.5


def test_tost_is_statsmodels_own() -> None:
    scores = preference_scores(planted(7, 80, 10, 0.5), "steered")
    found = estimate(scores)
    above, below = found.t_test(0.45, "greater"), found.t_test(0.55, "less")
    assert above is not None
    assert below is not None
    weighted = DescrStatsW(list(participant_means(scores).values()))
    _, low, high = weighted.ttost_mean(0.45, 0.55)
    assert same(above[1], low[1])
    assert same(below[1], high[1])


# Degenerate data: a defined output or a plain refusal, never NaN


def numbers_of(found: Estimate) -> list[float]:
    test = found.t_test()
    return [
        found.value,
        found.n_eff(),
        *found.interval(),
        *found.interval("wilson"),
        *found.interval("beta"),
        *found.t_interval(),
        *([test[1]] if test else []),
    ]


@pytest.mark.parametrize("value", [1.0, 0.0, 0.5])
@pytest.mark.parametrize("votes", [1, 10])
def test_where_all_agree_the_interval_still_has_width(value: float, votes: int) -> None:
    scores = [Score(f"p{i}", f"q{j}", value) for i in range(8) for j in range(votes)]
    for found in (estimate(scores), *([estimate_two_way(scores)] if votes > 1 else [])):
        assert all(math.isfinite(number) for number in numbers_of(found))
        low, high = found.interval()
        assert low <= value <= high
        assert high - low > 0.1
        assert found.t_test() is None
    assert icc(scores) is None
    assert 0 < sign_flip_p(scores) <= 1


def test_all_wins_count_one_vote_per_participant() -> None:
    """Ten unanimous people with ten votes each are not a hundred independent wins."""
    scores = [Score(f"p{i}", None, 1) for i in range(10) for _ in range(10)]
    n = 10 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 9)) ** 2
    assert estimate(scores).interval() == EXACT((0.025 ** (1 / n), 1), abs=1e-10)


def test_few_or_unanimous_participants_get_the_exact_interval() -> None:
    few, more = (
        estimate(preference_scores(planted(0, people, 10, 0.6), "steered")) for people in (14, 15)
    )
    assert few.interval() == few.interval("beta") != few.interval("wilson")
    assert more.interval() == more.interval("wilson") != more.interval("beta")
    for value in (0.0, 1.0):
        agreed = estimate([Score(f"p{i}", None, value) for i in range(20)])
        assert agreed.interval() == agreed.interval("beta") != agreed.interval("wilson")


def test_no_votes_are_refused() -> None:
    for analyse in (estimate, estimate_two_way, icc, sign_flip_p):
        with pytest.raises(InputError, match="no votes"):
            analyse([])


def test_one_participant_has_a_value_and_no_interval() -> None:
    found = estimate([Score("a", "q", 1), Score("a", "r", 0)])
    assert found.value == 0.5
    assert found.t_test() is None
    for interval in (found.t_interval, found.interval):
        with pytest.raises(InputError, match="at least two participants"):
            interval()
    assert sign_flip_p([Score("a", None, 1)] * 5) == 1
    one_prompt = estimate_two_way([Score("a", "q", 1), Score("b", "q", 0)])
    with pytest.raises(InputError, match="two prompts"):
        one_prompt.t_interval()


def test_one_participant_with_most_of_the_votes() -> None:
    scores = [Score("busy", f"q{j}", float(j % 3 > 0)) for j in range(90)]
    scores += [Score(f"p{i}", "q0", float(i % 2)) for i in range(10)]
    for found in (estimate(scores), estimate_two_way(scores)):
        assert all(math.isfinite(number) for number in numbers_of(found))
        assert found.interval()[0] < found.value < found.interval()[1]


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5, math.inf])
def test_a_score_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        estimate([Score("a", None, value), Score("b", None, 1)])


def test_new_names_of_participants_change_no_digit_of_a_drawn_permutation_test() -> None:
    scores = preference_scores(planted(5, 30, 6, 0.6, icc=0.2), "steered")
    renamed = [Score(score.participant[::-1], score.prompt, score.value) for score in scores]
    assert [name[::-1] for name in sorted({s.participant for s in renamed})] != sorted(
        {s.participant for s in scores}
    )
    assert sign_flip_p(renamed) == sign_flip_p(scores)
