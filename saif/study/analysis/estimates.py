"""How many prefer an arm, and how sure that is when each participant votes several times.

Votes of one participant resemble each other, so an interval that pools them is too narrow: with
ten votes each and an intraclass correlation of 0.1, a pooled 95 % interval covers 85 %. Here the
unit is the participant, or the participant and the prompt where all saw the same prompts.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.errors import InputError
from saif.study.participation.votes import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT_UP_TO = 16
"""Participants for whom all sign flips are tried; above that a sample of them is drawn."""

_DRAWN = 99_999
_BATCH = 1000

_NO_VARIANCE = 1e-18
"""A variance of shares below this is rounding."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean over participants of each one's mean score, in [0, 1].

    variance: of `value`, with votes clustered; None if there is a single cluster. df: degrees of
    freedom of that variance. n_votes: votes behind it.
    """

    value: float
    variance: float | None
    df: int
    n_participants: int
    n_votes: int

    @property
    def design_effect(self) -> float | None:
        """Variance over that of as many independent yes/no votes; None where neither varies."""
        binomial = self.value * (1 - self.value) / self.n_votes
        if self.variance is None or binomial < _NO_VARIANCE:
            return None
        return self.variance / binomial

    def n_eff(self, confidence: float = 0.95) -> float:
        """As how many independent votes these count, corrected for the few degrees of freedom.

        Korn and Graubard, Survey Methodology 24 (1998) 193, with a design effect of at least 1.
        Where all votes are wins (or losses) nothing is known of the clustering, and each cluster
        counts as one vote. Raises InputError with a single cluster.
        """
        from scipy.stats import norm, t

        if self.variance is None:
            raise InputError("An interval needs at least two participants (and two prompts).")
        effect = self.design_effect
        n = self.df + 1.0 if effect is None else self.n_votes / max(1.0, effect)
        upper = (1 + confidence) / 2
        return float(n * (norm.ppf(upper) / t.ppf(upper, self.df)) ** 2)

    def wilson(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval on `n_eff`: the headline."""
        return self._interval("wilson", confidence)

    def clopper_pearson(self, confidence: float = 0.95) -> tuple[float, float]:
        """Clopper and Pearson's interval on `n_eff`: for fewer than 15 participants, and where all
        votes agree."""
        return self._interval("beta", confidence)

    def headline(self, confidence: float = 0.95) -> tuple[float, float]:
        """The interval to report, `exact` or Wilson's."""
        return self.clopper_pearson(confidence) if self.exact else self.wilson(confidence)

    @property
    def exact(self) -> bool:
        """Whether `headline` is Clopper and Pearson's: for few participants or no variation."""
        return self.n_participants < 15 or self.value in (0.0, 1.0)

    def _interval(self, method: str, confidence: float) -> tuple[float, float]:
        from statsmodels.stats.proportion import proportion_confint

        n = self.n_eff(confidence)
        low, high = proportion_confint(self.value * n, n, alpha=1 - confidence, method=method)
        return max(0.0, float(low)), min(1.0, float(high))

    def t_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """value ± t · standard error, cut off at 0 and 1. Raises InputError with one cluster."""
        from scipy.stats import t

        if self.variance is None:
            raise InputError("An interval needs at least two participants (and two prompts).")
        half = float(t.ppf((1 + confidence) / 2, self.df)) * math.sqrt(self.variance)
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def t_test(self, null: float = 0.5) -> "TTest | None":
        """Two-sided test of `value` = `null`; None where participants do not differ at all, so
        that there is no scale to measure against (the permutation test remains)."""
        from scipy.stats import t

        if self.variance is None or self.variance < _NO_VARIANCE:
            return None
        statistic = (self.value - null) / math.sqrt(self.variance)
        return TTest(statistic, self.df, 2 * float(t.sf(abs(statistic), self.df)))


@dataclass(frozen=True, slots=True)
class TTest:
    """Student's t, its degrees of freedom and the p value."""

    t: float
    df: int
    p: float


def participant_means(scores: Sequence[Score]) -> dict[str, float]:
    """Each participant's mean score, by participant in sorted order, so that the order of the
    rows changes no digit. Raises InputError without scores or at one outside [0, 1]."""
    if not scores:
        raise InputError("There are no votes to analyse.")
    of: defaultdict[str, list[float]] = defaultdict(list)
    for score in scores:
        if not 0 <= score.value <= 1:  # also refuses NaN
            raise InputError(f"A score must lie between 0 and 1, not {score.value}.")
        of[score.participant].append(score.value)
    return {name: math.fsum(of[name]) / len(of[name]) for name in sorted(of)}


def estimate(scores: Sequence[Score]) -> Estimate:
    """The estimand with participants as clusters: what to use when prompts are not shared."""
    means = list(participant_means(scores).values())
    n = len(means)
    value = math.fsum(means) / n
    squares = math.fsum((mean - value) ** 2 for mean in means)
    variance = squares / (n - 1) / n if n > 1 else None
    return Estimate(value, variance, n - 1, n, len(scores))


def estimate_two_way(scores: Sequence[Score]) -> Estimate:
    """The same value, with votes on the same prompt counted as alike, too.

    Cameron, Gelbach and Miller, J. Business & Economic Statistics 29 (2011) 238: the variance by
    participant plus that by prompt minus that by both, each times G / (G - 1). Where this comes
    out below the larger of the first two, the larger stands. df: the smaller number of clusters
    minus 1. Raises InputError where a score names no prompt.
    """
    if any(score.prompt is None for score in scores):
        raise InputError("Clustering by prompt needs the prompt of every vote.")
    one_way = estimate(scores)
    prompts = {score.prompt for score in scores}
    if one_way.variance is None or len(prompts) < 2:
        return Estimate(one_way.value, None, 0, one_way.n_participants, one_way.n_votes)
    by_participant = _cluster_variance(scores, one_way.value, lambda score: score.participant)
    by_prompt = _cluster_variance(scores, one_way.value, lambda score: score.prompt)
    by_both = _cluster_variance(
        scores, one_way.value, lambda score: (score.participant, score.prompt)
    )
    variance = max(by_participant + by_prompt - by_both, by_participant, by_prompt)
    df = min(one_way.n_participants, len(prompts)) - 1
    return Estimate(one_way.value, variance, df, one_way.n_participants, one_way.n_votes)


def _cluster_variance(
    scores: Sequence[Score], value: float, cluster_of: Callable[[Score], Hashable]
) -> float:
    """Variance of the mean over participants, with the scores of a cluster summed first."""
    votes = Counter(score.participant for score in scores)
    sums: defaultdict[Hashable, list[float]] = defaultdict(list)
    for score in scores:
        weight = 1 / (len(votes) * votes[score.participant])
        sums[cluster_of(score)].append(weight * (score.value - value))
    squares = math.fsum(math.fsum(parts) ** 2 for parts in sums.values())
    return squares * len(sums) / (len(sums) - 1)


def icc(scores: Sequence[Score]) -> float | None:
    """How alike the votes of one participant are: 0 as votes of different people, 1 the same.

    The analysis-of-variance estimator of the one-way random-effects model for unequal group sizes
    (Donner, International Statistical Review 54 (1986) 67). Chance can make it slightly negative.
    None where no participant voted twice, there is only one, or all votes are equal.
    """
    means = participant_means(scores)
    n, k = len(scores), len(means)
    if k < 2 or n == k:
        return None
    counts = Counter(score.participant for score in scores)
    grand = math.fsum(score.value for score in scores) / n
    between = math.fsum(counts[who] * (mean - grand) ** 2 for who, mean in means.items()) / (k - 1)
    within = math.fsum((score.value - means[score.participant]) ** 2 for score in scores) / (n - k)
    size = (n - sum(count**2 for count in counts.values()) / n) / (k - 1)
    total = between + (size - 1) * within
    return (between - within) / total if total > _NO_VARIANCE else None


def sign_flip_p(scores: Sequence[Score], null: float = 0.5, *, seed: int = 0) -> float:
    """Two-sided permutation test of mean = `null` that holds for any number of participants.

    If the null is true, each participant's mean is as likely above it as below. All 2^N ways of
    flipping are tried up to EXACT_UP_TO participants, 99,999 drawn ones otherwise. The smallest
    possible p is 2 / 2^N: five participants can't reach 0.05.
    """
    import numpy as np
    from scipy.stats import permutation_test

    # Sorted, so that the random ids of participants change no digit of a drawn sample.
    deviations = np.sort(list(participant_means(scores).values())) - null
    if np.abs(deviations).max() < 1e-12 or len(deviations) < 2:
        return 1.0
    deviations = np.where(np.abs(deviations) < 1e-12, 0, deviations)
    if len(deviations) > EXACT_UP_TO:
        return _drawn_sign_flip_p(deviations, np.random.default_rng(seed))
    found = permutation_test(
        (deviations,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        n_resamples=2**EXACT_UP_TO,
        vectorized=True,
        batch=10_000,
    )
    return float(found.pvalue)


def _drawn_sign_flip_p(deviations: "NDArray[np.float64]", rng: "np.random.Generator") -> float:
    """The share of drawn flips whose sum is as far from 0, the one that was seen included. In
    batches: SciPy's general test takes half a minute for a thousand participants."""
    import numpy as np

    seen = abs(float(deviations.sum())) - 1e-9
    batches, size = divmod(_DRAWN, _BATCH)
    as_far = 1
    for n in [_BATCH] * batches + [size]:
        flips = rng.integers(0, 2, (n, len(deviations)), dtype=np.int8)
        # A flip of 1 takes a deviation twice from the sum of all.
        sums = deviations.sum() - 2 * (flips.astype(np.float64) @ deviations)
        as_far += int((np.abs(sums) >= seen).sum())
    return as_far / (_DRAWN + 1)


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two one-sided tests against null ± margin. p_not_lower: that the mean is below the lower
    bound is refuted ("does not hurt"); p_not_higher: likewise above; p: that it lies between."""

    margin: float
    p_not_lower: float
    p_not_higher: float

    @property
    def p(self) -> float:
        return max(self.p_not_lower, self.p_not_higher)


def tost(found: Estimate, *, null: float = 0.5, margin: float = 0.05) -> Equivalence | None:
    """Schuirmann's two one-sided t tests (1987). None where participants do not differ at all.
    Raises InputError for a margin that is not positive."""
    from scipy.stats import t

    if not 0 < margin < 1:
        raise InputError(f"The margin must lie between 0 and 1, not {margin}.")
    if found.variance is None or found.variance < _NO_VARIANCE:
        return None
    error = math.sqrt(found.variance)
    above_low = (found.value - (null - margin)) / error
    below_high = ((null + margin) - found.value) / error
    return Equivalence(margin, float(t.sf(above_low, found.df)), float(t.sf(below_high, found.df)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p values (Scandinavian J. of Statistics 6 (1979) 65), in the order given.
    Raises InputError at a p value outside [0, 1]."""
    for name, p in p_values.items():
        if not 0 <= p <= 1:  # also refuses NaN
            raise InputError(f"The p value of {name} must lie between 0 and 1, not {p}.")
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}
