"""A logistic regression in which each participant, and each prompt, has a level of its own.

Maximum likelihood with Laplace's approximation to the integral over the levels, as is usual for
crossed random effects (Breslow and Clayton, JASA 88 (1993) 9). A vote of ½ counts as half a vote
for either side. statsmodels has no such estimator; its variational one takes the coefficients to
be independent of the levels, and its errors come out too small.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.study.analysis.design_matrix import Design

if TYPE_CHECKING:
    from saif.study.analysis.design_matrix import Floats, Places

_SMALLEST, _LARGEST = -5.0, 2.0  # of a log standard deviation; e^-5 is none
_NODES = 40


@dataclass(frozen=True, slots=True)
class Mixed:
    """coefficients, covariance: of the design's columns. sd_participants, sd_prompts: standard
    deviations of the levels, on the log odds. converged: whether the search ended by itself."""

    coefficients: "Floats"
    covariance: "Floats"
    sd_participants: float
    sd_prompts: float
    converged: bool


@dataclass(slots=True)
class _Levels:
    """The most likely standardised levels for given coefficients, from which the next search
    starts."""

    participants: "Floats"
    prompts: "Floats"


def fit_mixed(made: Design) -> Mixed:
    """Fit it. Slow past some thousand prompts, quick for any number of participants."""
    import numpy as np
    from scipy.optimize import minimize

    n_terms = made.x.shape[1]
    levels = _Levels(np.zeros(made.n_participants), np.zeros(made.n_prompts))
    n_sds = 2 if made.n_prompts else 1

    def loss(at: "Floats") -> float:
        return _loss(made, at[:n_terms], np.exp(at[n_terms:]), levels)

    found = minimize(
        loss,
        np.concatenate([np.zeros(n_terms), np.full(n_sds, -0.7)]),
        method="L-BFGS-B",
        jac="3-point",
        bounds=[(-12, 12)] * n_terms + [(_SMALLEST, _LARGEST)] * n_sds,
    )
    sds = np.exp(found.x[n_terms:])
    loss(found.x)  # leaves the levels at the maximum
    return Mixed(
        coefficients=found.x[:n_terms],
        covariance=_covariance(made, found.x[:n_terms], sds, levels),
        sd_participants=_shown(sds[0]),
        sd_prompts=_shown(sds[1]) if n_sds > 1 else 0.0,
        converged=bool(found.success),
    )


def population_share(log_odds: float, sd: float) -> float:
    """The mean probability over people and prompts whose log odds vary by `sd` around `log_odds`:
    nearer to ½ than that of a typical one."""
    import numpy as np
    from scipy.special import expit

    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return float(weights @ expit(log_odds + sd * nodes) / weights.sum())


def _shown(sd: float) -> float:
    return 0.0 if sd < 1.5 * math.exp(_SMALLEST) else float(sd)


def _loss(made: Design, coefficients: "Floats", sds: "Floats", levels: _Levels) -> float:
    """Minus the log likelihood, Laplace-approximated. Moves the levels to their maximum."""
    import numpy as np

    fixed = made.x @ coefficients
    value = _penalised(made, fixed, sds, levels)
    for _ in range(100):
        weights, residuals = _weights(made, fixed, sds, levels)
        to_participants, to_prompts = _solve(
            made,
            sds,
            weights,
            sds[0] * _sum(residuals, made.participants, made.n_participants) - levels.participants,
            _prompt_sums(made, sds, residuals) - levels.prompts,
        )
        step = 1.0
        while True:
            moved = _Levels(
                levels.participants + step * to_participants, levels.prompts + step * to_prompts
            )
            reached = _penalised(made, fixed, sds, moved)
            if reached >= value - 1e-12 * abs(value) or step < 1e-6:
                break
            step /= 2
        levels.participants, levels.prompts, value = moved.participants, moved.prompts, reached
        far = max(np.abs(to_participants).max(initial=0), np.abs(to_prompts).max(initial=0))
        if far < 1e-9:
            break
    weights, _ = _weights(made, fixed, sds, levels)
    diagonal, _, inner = _blocks(made, sds, weights)
    return float(-value + 0.5 * (np.log(diagonal).sum() + np.linalg.slogdet(inner)[1]))


def _predictor(made: Design, fixed: "Floats", sds: "Floats", levels: _Levels) -> "Floats":
    total = fixed + sds[0] * levels.participants[made.participants]
    return total + sds[1] * levels.prompts[made.prompts] if made.n_prompts else total


def _penalised(made: Design, fixed: "Floats", sds: "Floats", levels: _Levels) -> float:
    """Log likelihood of votes and levels together."""
    import numpy as np

    eta = _predictor(made, fixed, sds, levels)
    likelihood = float((made.y * eta - np.logaddexp(0, eta)).sum())
    return likelihood - 0.5 * float((levels.participants**2).sum() + (levels.prompts**2).sum())


def _weights(
    made: Design, fixed: "Floats", sds: "Floats", levels: _Levels
) -> "tuple[Floats, Floats]":
    from scipy.special import expit

    p = expit(_predictor(made, fixed, sds, levels))
    return p * (1 - p), made.y - p


def _sum(values: "Floats", places: "Places", n: int) -> "Floats":
    import numpy as np

    return np.asarray(np.bincount(places, values, minlength=n), dtype=np.float64)


def _prompt_sums(made: Design, sds: "Floats", values: "Floats") -> "Floats":
    import numpy as np

    return sds[1] * _sum(values, made.prompts, made.n_prompts) if made.n_prompts else np.zeros(0)


def _blocks(made: Design, sds: "Floats", weights: "Floats") -> "tuple[Floats, Floats, Floats]":
    """The curvature of the levels in blocks: participants (only a diagonal), participants by
    prompts, and prompts with the participants eliminated."""
    import numpy as np

    n, j = made.n_participants, made.n_prompts
    diagonal = 1 + sds[0] ** 2 * _sum(weights, made.participants, n)
    if not j:
        return diagonal, np.zeros((n, 0)), np.zeros((0, 0))
    pairs = _sum(weights, made.participants * j + made.prompts, n * j).reshape(n, j)
    cross = sds[0] * sds[1] * pairs
    own = 1 + sds[1] ** 2 * _sum(weights, made.prompts, j)
    return diagonal, cross, np.diag(own) - cross.T @ (cross / diagonal[:, None])


def _solve(
    made: Design, sds: "Floats", weights: "Floats", first: "Floats", second: "Floats"
) -> "tuple[Floats, Floats]":
    """The curvature's inverse times (first, second), each of which may have several columns."""
    import numpy as np

    diagonal, cross, inner = _blocks(made, sds, weights)
    scaled = (first.T / diagonal).T
    of_prompts = np.asarray(np.linalg.solve(inner, second - cross.T @ scaled), dtype=np.float64)
    return scaled - ((cross @ of_prompts).T / diagonal).T, of_prompts


def _covariance(made: Design, coefficients: "Floats", sds: "Floats", levels: _Levels) -> "Floats":
    """Of the coefficients, the levels being estimated too, and the standard deviations known."""
    import numpy as np

    weights, _ = _weights(made, made.x @ coefficients, sds, levels)
    weighted = made.x * weights[:, None]
    first = np.column_stack(
        [sds[0] * _sum(column, made.participants, made.n_participants) for column in weighted.T]
    )
    second = np.column_stack([_prompt_sums(made, sds, column) for column in weighted.T])
    of_participants, of_prompts = _solve(made, sds, weights, first, second)
    information = made.x.T @ weighted - first.T @ of_participants - second.T @ of_prompts
    return np.asarray(np.linalg.inv(information), dtype=np.float64)
