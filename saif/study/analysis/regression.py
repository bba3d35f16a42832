"""Regressions of the vote: what a preset does with side, position and length held even."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saif.study.analysis.data import StudyData
from saif.study.analysis.design_matrix import Design, design
from saif.study.analysis.mixed import fit_mixed, population_share
from saif.study.analysis.observations import Observation, observations
from saif.study.analysis.results import Model, Term

if TYPE_CHECKING:
    from saif.study.analysis.design_matrix import Floats

FEW_CLUSTERS = 40
"""Participants below which the covariance is corrected as Mancl and DeRouen do."""

_TOO_FAR = 8.0
"""A coefficient beyond this (odds of 3,000 to 1) is running off to infinity."""

_AVERAGED = (
    "Generalised estimating equations, exchangeable within participants: what holds on average "
    "over people."
)
_SHARED = (
    " It does not allow for votes on one prompt being alike, so where prompts were shared its "
    "intervals are too narrow."
)
_WITH_LENGTH = (
    "The same with the difference in length. Where steering itself changes the length, this takes "
    "part of its effect away: a sensitivity analysis."
)
_WITHIN = (
    "A logistic regression with a level for each participant and each prompt, by Laplace's "
    "approximation. Odds are those of a typical participant on a typical prompt, probabilities are "
    "averaged over them. It has no participant-by-preset levels and takes the spread that it finds "
    "as known; a preset's interval therefore uses t with as many degrees of freedom as there are "
    "participants, or prompts if these are fewer, minus 1. With under ten prompts it is still a "
    "little narrow."
)


def models(data: StudyData) -> tuple[Model, ...]:
    """All of them; one that can't be fitted says so in its note."""
    seen = [one for one in observations(data) if one.vote.choice != "skip"]
    first = data.version.study.arms[0]
    why = _hopeless(seen)
    unmeasured = any(None in (one.tokens_first, one.tokens_second) for one in seen)
    made = None if why else design(seen, first, length=False)
    longer = None if why or unmeasured else design(seen, first, length=True)
    if not why and unmeasured:
        no_length = "The lengths of some answers are not known."
    elif longer and made and longer.names == made.names:
        longer, no_length = None, "The answers do not differ in length."
    else:
        no_length = why
    few = len({one.vote.participant for one in seen}) < FEW_CLUSTERS
    corrected = (
        " Its covariance is corrected for few participants (Mancl and DeRouen 2001)." if few else ""
    )
    corrected += _SHARED if made is not None and made.n_prompts else ""
    return (
        _averaged("GEE", _AVERAGED + corrected, made, why),
        _averaged("GEE with length", _WITH_LENGTH + corrected, longer, no_length),
        _within("GLMM", _WITHIN, made, why),
    )


def _hopeless(seen: Sequence[Observation]) -> str:
    """Why no regression can be fitted to these votes; empty if nothing speaks against it."""
    if len({one.vote.participant for one in seen}) < 2:
        return "It needs votes of at least two participants."
    for preset in dict.fromkeys(one.preset for one in seen):
        preferred = {one.vote.preferred for one in seen if one.preset == preset}
        if len(preferred) == 1:
            what = "a tie" if preferred == {None} else "for the same arm"
            return f"Every vote on {preset} is {what}, so there is nothing to fit."
    return ""


def _averaged(name: str, about: str, made: Design | None, why: str) -> Model:
    import numpy as np
    from statsmodels.genmod.cov_struct import Exchangeable, Independence
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_estimating_equations import GEE

    if made is None:
        return Model(name, about, (), {}, 0, why)
    alike = np.bincount(made.participants).max() > 1
    n = made.n_participants
    try:
        with warnings.catch_warnings():
            # What they warn of (no convergence, a singular matrix) shows in the numbers below.
            warnings.simplefilter("ignore")
            structure = Exchangeable() if alike else Independence()
            model = GEE(made.y, made.x, made.participants, family=Binomial(), cov_struct=structure)
            fit = model.fit(maxiter=200, cov_type="bias_reduced" if n < FEW_CLUSTERS else "robust")
    except (np.linalg.LinAlgError, ValueError, FloatingPointError) as error:
        return Model(name, about, (), {}, len(made.y), f"It could not be fitted: {error}.")
    errors = np.sqrt(np.clip(np.diag(fit.cov_params()), 0, None))
    df = n - made.x.shape[1]
    wrong = _wrong(fit.params, errors, converged=bool(fit.converged)) or (
        "There are not more participants than coefficients." if df < 1 else ""
    )
    if wrong:
        return Model(name, about, (), {}, len(made.y), wrong)
    correlation = float(structure.dep_params) if alike else 0.0
    terms = _terms(made, fit.params, errors, np.full(len(errors), df), spread=0.0)
    return Model(name, about, terms, {"correlation within participants": correlation}, len(made.y))


def _within(name: str, about: str, made: Design | None, why: str) -> Model:
    import numpy as np

    if made is None:
        return Model(name, about, (), {}, 0, why)
    try:
        fit = fit_mixed(made)
    except np.linalg.LinAlgError as error:
        return Model(name, about, (), {}, len(made.y), f"It could not be fitted: {error}.")
    errors = np.sqrt(np.clip(np.diag(fit.covariance), 0, None))
    wrong = _wrong(fit.coefficients, errors, converged=fit.converged)
    if wrong:
        return Model(name, about, (), {}, len(made.y), wrong)
    spread = math.hypot(fit.sd_participants, fit.sd_prompts)
    # A preset is compared between levels, side and position within them.
    levels = min(made.n_participants, made.n_prompts or made.n_participants)
    df = np.where(np.arange(len(errors)) < made.n_presets, max(1, levels - 1), np.inf)
    terms = _terms(made, fit.coefficients, errors, df, spread=spread)
    sds = {"sd of participants, log odds": fit.sd_participants}
    if made.n_prompts:
        sds["sd of prompts, log odds"] = fit.sd_prompts
    return Model(name, about, terms, sds, len(made.y))


def _wrong(coefficients: "Floats", errors: "Floats", *, converged: bool) -> str:
    """Why a fit is not to be shown; empty if it is."""
    import numpy as np

    if not (np.isfinite(coefficients).all() and np.isfinite(errors).all()):
        return "It has no finite solution."
    if np.abs(coefficients).max() > _TOO_FAR:
        return (
            "Its odds run off to infinity: something separates the votes, or it reaches far beyond "
            "the data."
        )
    if errors.min() <= 1e-9:
        return "The votes do not vary enough to tell how sure it is."
    return "" if converged else "The search for its solution did not end."


def _terms(
    made: Design, coefficients: "Floats", errors: "Floats", df: "Floats", *, spread: float
) -> tuple[Term, ...]:
    """df: degrees of freedom of each coefficient's t. spread: over which probabilities are
    averaged."""
    import numpy as np
    from scipy.stats import t

    p_values = 2 * t.sf(np.abs(coefficients / errors), df)
    halves = t.ppf(0.975, df) * errors
    found = []
    for place, name in enumerate(made.names):
        value, half = float(coefficients[place]), float(halves[place])
        ends = (value, value - half, value + half)
        odds, odds_low, odds_high = (math.exp(max(-50.0, min(50.0, end))) for end in ends)
        preset = place < made.n_presets
        share, share_low, share_high = (
            population_share(end, spread) if preset else None for end in ends
        )
        found.append(
            Term(
                name=name,
                log_odds=value,
                error=float(errors[place]),
                odds=odds,
                odds_low=odds_low,
                odds_high=odds_high,
                probability=share,
                probability_low=share_low,
                probability_high=share_high,
                p=float(p_values[place]),
            )
        )
    return tuple(found)
