"""Logistic regressions of the vote: what a preset does with side, position and length held even.

Averaged over people and prompts, with the covariance clustered as the headline's is. A mixed model,
for who wants the odds of a typical person, is in the R script of an export.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.study.analysis.data import StudyData
from saif.study.analysis.estimates import clustered_variances, places, prompts_are_shared
from saif.study.participation.votes import Vote

if TYPE_CHECKING:
    from saif.study.analysis.estimates import Floats

_TOO_FAR = 8.0
"""A coefficient beyond this (odds of 3,000 to 1) is running off to infinity."""

_ABOUT = (
    "What holds on average over people and prompts. Its covariance takes votes of one participant "
    "for alike{too}; its t has {df} degrees of freedom."
)
_WITH_LENGTH = (
    "The same with the difference in length. Where steering itself changes the length, this takes "
    "part of its effect away: a sensitivity analysis."
)


@dataclass(frozen=True, slots=True)
class Term:
    """One coefficient. For a preset, `odds` and `probability` are of preferring the first arm; for
    anything else `odds` is a ratio and there is no probability. p: of a coefficient of 0."""

    name: str
    log_odds: float
    error: float
    odds: float
    odds_low: float
    odds_high: float
    probability: float | None
    probability_low: float | None
    probability_high: float | None
    p: float


@dataclass(frozen=True, slots=True)
class Model:
    """A regression. about: the estimator and its limits. note: why it was not fitted; then there
    are no terms."""

    name: str
    about: str
    terms: tuple[Term, ...]
    n_votes: int
    note: str = ""


def models(data: StudyData) -> tuple[Model, ...]:
    """All of them; one that can't be fitted says so in its note."""
    votes = [vote for vote in data.votes["main"] if vote.choice != "skip"]
    first = data.version.study.arms[0]
    lengths = [(vote.tokens_left, vote.tokens_right) for vote in votes]
    hopeless = _hopeless(votes)
    no_length = hopeless
    if any(None in pair for pair in lengths):
        no_length = no_length or "The lengths of some answers are not known."
    elif all(left == right for left, right in lengths):
        no_length = no_length or "The answers do not differ in length."
    name, longer = "logistic regression", "logistic regression with length"
    return (
        Model(name, "", (), 0, hopeless) if hopeless else _fitted(name, votes, first, length=False),
        Model(longer, _WITH_LENGTH, (), 0, no_length)
        if no_length
        else _fitted(longer, votes, first, length=True),
    )


def _hopeless(votes: Sequence[Vote]) -> str:
    """Why no regression can be fitted to these votes; empty if nothing speaks against it."""
    if len({vote.participant for vote in votes}) < 2:
        return "It needs votes of at least two participants."
    for preset in dict.fromkeys(vote.preset for vote in votes):
        arms = {vote.preferred for vote in votes if vote.preset == preset}
        if len(arms) == 1:
            what = "a tie" if arms == {None} else "for the same arm"
            return f"Every vote on {preset} is {what}, so there is nothing to fit."
    return ""


def design(votes: Sequence[Vote], first: str, *, length: bool) -> "tuple[Floats, tuple[str, ...]]":
    """(n, k) numbers that a regression sees, and the names of its columns: one for each preset,
    then what may have moved the vote.

    A preset's column is 1 on its votes, and everything else is 0 at the middle, so that a preset's
    coefficient is the log odds of preferring the first arm, sides and position being even. A column
    that the others determine is left out. length: with the difference of the answers' log lengths,
    for which every vote needs its tokens.
    """
    import numpy as np

    presets = list(dict.fromkeys(vote.preset for vote in votes))
    columns = {name: np.array([float(vote.preset == name) for vote in votes]) for name in presets}
    position = np.array([vote.position / 10 for vote in votes])
    optional = {
        "first arm on the left": np.array([0.5 if vote.left == first else -0.5 for vote in votes]),
        "ten trials later": position - position.mean(),
    }
    if length:
        # log2 of the first arm's length over the second's; an empty answer counts as one token.
        sizes = [[max(1, vote.tokens_left or 0), max(1, vote.tokens_right or 0)] for vote in votes]
        left, right = np.log2(sizes).T
        optional["twice as long"] = (left - right) * 2 * optional["first arm on the left"]
    for name, column in optional.items():
        wider = np.column_stack([*columns.values(), column])
        if np.linalg.matrix_rank(wider.T @ wider) == len(columns) + 1:
            columns[name] = column
    return np.column_stack(list(columns.values())), tuple(columns)


def _fitted(name: str, votes: Sequence[Vote], first: str, *, length: bool) -> Model:
    import numpy as np
    from scipy.special import expit
    from scipy.stats import t
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    y = np.array([0.5 if v.preferred is None else float(v.preferred == first) for v in votes])
    x, names = design(votes, first, length=length)
    clusters = [places([vote.participant for vote in votes])]
    if prompts_are_shared(votes):
        clusters.append(places([vote.prompt for vote in votes]))
    about = _WITH_LENGTH if length else ""
    if len(y) <= len(names):
        return Model(name, about, (), len(y), "There are not more votes than coefficients.")
    try:
        with warnings.catch_warnings():
            # What they warn of (no convergence, separation) shows in the numbers below.
            warnings.simplefilter("ignore")
            fit = GLM(y, x, family=Binomial()).fit()
        variances, df = clustered_variances(
            x * (y - fit.mu)[:, None], np.asarray(fit.normalized_cov_params), clusters
        )
    except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
        return Model(name, about, (), len(y), f"It could not be fitted: {error}.")
    errors = np.sqrt(np.clip(variances, 0, None))
    problems = {
        "It has no finite solution.": not np.isfinite([fit.params, errors]).all(),
        "Its odds run off to infinity: something separates the votes, or it reaches far beyond "
        "the data.": np.abs(fit.params).max() > _TOO_FAR,
        "The votes do not vary enough to tell how sure it is.": errors.min() <= 1e-6,
        "The search for its solution did not end.": not fit.converged,
    }
    for problem, is_there in problems.items():
        if is_there:
            return Model(name, about, (), len(y), problem)
    if not length:
        too = ", and votes on one prompt, too" if len(clusters) > 1 else ""
        about = _ABOUT.format(too=too, df=df)
    n_presets = len({vote.preset for vote in votes})
    terms = []
    for place, (term, value, sd) in enumerate(zip(names, fit.params, errors, strict=True)):
        half = float(t.ppf(0.975, df)) * sd
        ends = [float(end) for end in (value, value - half, value + half)]
        odds, odds_low, odds_high = (math.exp(max(-50.0, min(50.0, end))) for end in ends)
        # The first coefficients are log odds, so they are shares as well.
        share, low, high = (float(expit(end)) if place < n_presets else None for end in ends)
        p = 2 * float(t.sf(abs(value / sd), df))
        values = (ends[0], float(sd), odds, odds_low, odds_high, share, low, high, p)
        terms.append(Term(term, *values))
    return Model(name, about, tuple(terms), len(y))
