"""The regressions, against statsmodels' own formulas, and how often their intervals are right."""

import math
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from made_up_data import data_of, length_of_first, trial_row, trial_rows
from made_up_votes import planted, vote
from scipy import stats
from scipy.special import expit

from saif.study.analysis.data import StudyData
from saif.study.analysis.estimates import share
from saif.study.analysis.regression import Model, design, models
from saif.study.participation.votes import Vote, preference_scores

PLAIN, LONGER = "logistic regression", "logistic regression with length"
FREE = {"prompts": {"kind": "free", "task": "Chat."}}


def fitted(data: StudyData, name: str = PLAIN) -> Model:
    return next(one for one in models(data) if one.name == name)


def frame_of(data: StudyData) -> pd.DataFrame:
    seen = [one for one in data.votes["main"] if one.choice != "skip"]
    score = {"steered": 1.0, "unsteered": 0.0, None: 0.5}
    frame = pd.DataFrame(
        {
            "y": [score[one.preferred] for one in seen],
            "who": [int(one.participant) for one in seen],
            "what": [int((one.prompt or "q0")[1:]) for one in seen],
            "side": [0.5 if one.left == "steered" else -0.5 for one in seen],
            "place": [one.position / 10 for one in seen],
            "length": [np.log2(length_of_first(one.position) / 20) for one in seen],
        }
    )
    frame["place"] -= frame["place"].mean()
    return frame


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("name", "length"), [(PLAIN, ""), (LONGER, " + length")])
def test_the_model_is_that_of_statsmodels(shared: bool, name: str, length: str) -> None:
    votes = planted(1, 20, 6, 0.65, icc=0.2, ties=0.2)
    votes[3] = replace(votes[3], choice="skip")
    if not shared:
        votes = [replace(one, prompt=None) for one in votes]
    data = data_of(trial_rows(votes), **({} if shared else FREE))
    frame = frame_of(data)
    assert len(frame) == len(votes) - 1
    model = smf.glm(f"y ~ side + place{length}", frame, family=sm.families.Binomial())

    def variances(groups: object) -> np.ndarray:
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": np.asarray(groups)})
        return np.diag(fit.cov_params())

    kinds = ["who"] if not shared else [["who", "what"], "who", "what"]
    wanted = np.max([variances(frame[kind]) for kind in kinds], axis=0)
    found = fitted(data, name)
    assert [term.log_odds for term in found.terms] == pytest.approx(list(model.fit().params))
    assert [term.error for term in found.terms] == pytest.approx(list(np.sqrt(wanted)), rel=1e-6)
    first, df = found.terms[0], 5 if shared else 19  # of six prompts, of twenty people
    assert first.p == pytest.approx(2 * stats.t.sf(abs(first.log_odds / first.error), df))
    half = stats.t.ppf(0.975, df) * first.error
    assert np.log(first.odds_high) == pytest.approx(first.log_odds + half)
    assert first.probability == pytest.approx(expit(first.log_odds))
    assert first.probability_low == pytest.approx(expit(first.log_odds - half))
    assert found.terms[1].probability is None


def test_without_lengths_only_the_model_with_length_is_missing() -> None:
    rows = trial_rows(planted(1, 8, 4, 0.6))
    rows[0] = {**rows[0], "tokens_left": None}
    data = data_of(rows)
    assert fitted(data).terms
    assert fitted(data, LONGER).note == "The lengths of some answers are not known."
    same = [{**row, "tokens_left": 5, "tokens_right": 5} for row in rows]
    assert fitted(data_of(same), LONGER).note == "The answers do not differ in length."


def test_what_separates_the_votes_is_said_and_not_fitted() -> None:
    """Every vote is for the left answer, so the side explains everything."""
    rows = []
    for person in range(8):
        for place in range(4):
            left, right = ("steered", "unsteered")[:: 1 if place % 2 else -1]
            made = vote(f"{person}-{place}", f"p{person}", "L", left=left, right=right)
            rows.append(trial_row(made, place + 1))
    for one in models(data_of(rows, **FREE)):
        assert one.terms == ()
        assert one.note


def test_a_column_that_says_nothing_new_is_left_out() -> None:
    votes = data_of(trial_rows(planted(1, 6, 4, 0.6))).votes["main"]
    names = design(votes, "steered", length=False)[1]
    assert names[1:] == ("first arm on the left", "ten trials later")
    left = [one for one in votes if one.left == "steered"]
    assert "first arm on the left" not in design(left, "steered", length=False)[1]
    x, names = design(votes, "steered", length=True)
    wanted = [math.log2(length_of_first(one.position) / 20) for one in votes]
    assert x[:, names.index("twice as long")] == pytest.approx(wanted)


def crossed(seed: int, people: int, prompts: int) -> list[Vote]:
    """Rates that vary over people and over prompts, around one half."""
    rng, drawn = np.random.default_rng(seed), random.Random(seed)
    of_people, of_prompts = 0.5 * rng.normal(size=people), 0.5 * rng.normal(size=prompts)
    made = []
    for person in range(people):
        for prompt in range(prompts):
            left, right = ("steered", "unsteered")[:: drawn.choice([1, -1])]
            likes = drawn.random() < expit(of_people[person] + of_prompts[prompt])
            chosen = "L" if (left == "steered") == likes else "R"
            made.append(
                vote(f"{person}-{prompt}", f"p{person}", chosen, left=left, right=right,
                     prompt=f"q{prompt}")  # type: ignore[arg-type]
            )  # fmt: skip
    return made


def test_shared_prompts_widen_the_interval_of_the_model() -> None:
    """Sixty people on eight prompts: what the model without prompts got wrong two times in five."""
    held = 0
    for seed in range(60):
        term = fitted(data_of(trial_rows(crossed(seed, 60, 8)))).terms[0]
        held += term.odds_low <= 1 <= term.odds_high
    assert held >= 53  # 0.95 of 60 less two standard errors; one-way clusters hold some 36


@pytest.mark.slow
@pytest.mark.parametrize("people", [12, 24, 60])
@pytest.mark.parametrize("icc", [0.0, 0.1, 0.3])
def test_intervals_hold_the_truth_as_often_as_they_say(people: int, icc: float) -> None:
    right = {"model": 0, "share": 0}
    for seed in range(200):
        votes = [replace(one, prompt=None) for one in planted(seed, people, 10, 0.5, icc=icc)]
        term = fitted(data_of(trial_rows(votes), **FREE)).terms[0]
        right["model"] += term.odds_low <= 1 <= term.odds_high
        found = share(preference_scores(votes, "steered"))
        right["share"] += (found.low or 0) <= 0.5 <= (found.high or 0)
    for name, n in right.items():
        assert n / 200 >= 0.9, (name, n)


@pytest.mark.slow
@pytest.mark.parametrize(("people", "prompts"), [(24, 8), (40, 20)])
def test_intervals_hold_the_truth_where_prompts_differ_too(people: int, prompts: int) -> None:
    right = {"model": 0, "share": 0}
    for seed in range(200):
        votes = crossed(seed, people, prompts)
        term = fitted(data_of(trial_rows(votes))).terms[0]
        right["model"] += term.odds_low <= 1 <= term.odds_high
        found = share(preference_scores(votes, "steered"))
        right["share"] += (found.low or 0) <= 0.5 <= (found.high or 0)
    assert right["share"] / 200 >= 0.92, right
    assert right["model"] / 200 >= 0.9, right
