"""The regressions, against statsmodels' own formulas, and how often their intervals are right."""

import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from made_up_data import data_of, trial_row, trial_rows
from made_up_votes import planted, vote
from scipy.special import expit

from saif.study.analysis.data import StudyData
from saif.study.analysis.observations import observations
from saif.study.analysis.regression import models
from saif.study.analysis.results import Model
from saif.study.analysis.shares import share
from saif.study.participation.votes import Vote, preference_scores


def fitted(data: StudyData, name: str) -> Model:
    return next(one for one in models(data) if one.name == name)


def frame_of(data: StudyData) -> pd.DataFrame:
    seen = [one for one in observations(data) if one.vote.choice != "skip"]
    score = {"steered": 1.0, "unsteered": 0.0, None: 0.5}
    return pd.DataFrame(
        {
            "y": [score[one.vote.preferred] for one in seen],
            "who": [one.vote.participant for one in seen],
            "side": [0.5 if one.first_left else -0.5 for one in seen],
            "place": [one.position / 10 for one in seen],
            "length": [np.log2((one.tokens_first or 1) / (one.tokens_second or 1)) for one in seen],
        }
    )


@pytest.mark.parametrize(("people", "covariance"), [(20, "bias_reduced"), (45, "robust")])
def test_the_averaged_model_is_that_of_statsmodels(people: int, covariance: str) -> None:
    votes = planted(1, people, 6, 0.65, icc=0.2, ties=0.2)
    votes[3] = replace(votes[3], choice="skip")
    data = data_of(trial_rows(votes))
    frame = frame_of(data)
    assert len(frame) == len(votes) - 1
    frame["place"] -= frame["place"].mean()
    for name, formula in [
        ("GEE", "y ~ side + place"),
        ("GEE with length", "y ~ side + place + length"),
    ]:
        wanted = smf.gee(
            formula, "who", frame, family=sm.families.Binomial(),
            cov_struct=sm.cov_struct.Exchangeable(),
        ).fit(cov_type=covariance)  # fmt: skip
        found = fitted(data, name)
        assert [term.log_odds for term in found.terms] == pytest.approx(
            list(wanted.params), abs=1e-6
        )
        assert [term.error for term in found.terms] == pytest.approx(list(wanted.bse), abs=1e-6)
        assert ("Mancl" in found.about) == (covariance == "bias_reduced")
        # A t quantile, as few participants tell the variance only roughly.
        first = found.terms[0]
        width = np.log(first.odds_high / first.odds_low) / 2 / first.error
        assert 1.96 < width < (2.2 if people == 20 else 2.03)
        assert first.probability == pytest.approx(expit(first.log_odds))


def test_without_lengths_only_the_model_with_length_is_missing() -> None:
    rows = trial_rows(planted(1, 8, 4, 0.6))
    rows[0] = {**rows[0], "tokens_left": None}
    found = {one.name: one for one in models(data_of(rows))}
    assert found["GEE"].terms
    assert found["GEE with length"].note == "The lengths of some answers are not known."
    same = [{**row, "tokens_left": 5, "tokens_right": 5} for row in rows]
    assert fitted(data_of(same), "GEE with length").note == "The answers do not differ in length."


def test_what_separates_the_votes_is_said_and_not_fitted() -> None:
    """Every vote is for the left answer, so the side explains everything."""
    rows = []
    for person in range(8):
        for place in range(4):
            left, right = ("steered", "unsteered")[:: 1 if place % 2 else -1]
            made = vote(f"{person}-{place}", f"p{person}", "L", left=left, right=right)
            rows.append(trial_row(made, place + 1))
    for one in models(data_of(rows, prompts={"kind": "free", "task": "Chat."})):
        assert one.terms == ()
        assert one.note


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


@pytest.mark.slow
@pytest.mark.parametrize("people", [12, 24, 60])
@pytest.mark.parametrize("icc", [0.0, 0.1, 0.3])
def test_intervals_hold_the_truth_as_often_as_they_say(people: int, icc: float) -> None:
    right = {"GEE": 0, "GLMM": 0, "share": 0}
    for seed in range(200):
        votes = [replace(one, prompt=None) for one in planted(seed, people, 10, 0.5, icc=icc)]
        data = data_of(trial_rows(votes), prompts={"kind": "free", "task": "Chat."})
        for name in ("GEE", "GLMM"):
            term = fitted(data, name).terms[0]
            right[name] += term.odds_low <= 1 <= term.odds_high
        found = share(preference_scores(votes, "steered"))
        right["share"] += (found.low or 0) <= 0.5 <= (found.high or 0)
    for name, n in right.items():
        assert n / 200 >= 0.9, (name, n)


@pytest.mark.slow
@pytest.mark.parametrize(("people", "prompts"), [(24, 8), (40, 20)])
def test_intervals_hold_the_truth_where_prompts_differ_too(people: int, prompts: int) -> None:
    right = {"GLMM": 0, "share": 0}
    for seed in range(200):
        votes = crossed(seed, people, prompts)
        term = fitted(data_of(trial_rows(votes)), "GLMM").terms[0]
        right["GLMM"] += term.odds_low <= 1 <= term.odds_high
        found = share(preference_scores(votes, "steered"))
        right["share"] += (found.low or 0) <= 0.5 <= (found.high or 0)
    assert right["share"] / 200 >= 0.92, right
    assert right["GLMM"] / 200 >= 0.9, right
