"""How many prefer an arm, and how sure that is when each participant votes several times.

Votes of one participant resemble each other, so an interval that pools them is too narrow: with
ten votes each and an intraclass correlation of 0.1, a pooled 95 % interval covers 85 %. Here the
unit is the participant, or the participant and the prompt where all saw the same prompts.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from saif.errors import InputError
from saif.study.participation.votes import Score, Vote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.int64]

EXACT_UP_TO = 16
"""Participants for whom all sign flips are tried; above that a sample of them is drawn."""

_DRAWN = 99_999

_NO_VARIANCE = 1e-18
"""A variance of shares below this is rounding."""

Clusters = Literal["participants", "participants and prompts"]
"""What votes are counted as alike within."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean over participants of each one's mean score, in [0, 1]."""

    value: float
    variance: float | None
    """Of `value`, with votes clustered; None if there is a single cluster."""
    df: int
    """Degrees of freedom of that variance."""
    n_participants: int
    n_votes: int
    """Votes behind it."""
    clusters: Clusters = "participants"

    @property
    def design_effect(self) -> float | None:
        """Variance over that of as many independent yes/no votes; None where neither varies."""
        binomial = self.value * (1 - self.value) / self.n_votes
        if self.variance is None or binomial < _NO_VARIANCE:
            return None
        return self.variance / binomial

    def n_eff(self) -> float:
        """As how many independent votes these count, corrected for the few degrees of freedom.

        Korn and Graubard, Survey Methodology 24 (1998) 193, with a design effect of at least 1.
        Where all votes are wins (or losses) nothing is known of the clustering, and each cluster
        counts as one vote. Raises InputError with a single cluster.
        """
        from scipy.stats import norm

        effect = self.design_effect
        n = self.df + 1.0 if effect is None else self.n_votes / max(1.0, effect)
        return float(n * (norm.ppf(0.975) / self._critical_t()) ** 2)

    @property
    def exact(self) -> bool:
        """Whether `interval` is Clopper and Pearson's: for few participants or no variation."""
        return self.n_participants < 15 or self.value in (0.0, 1.0)

    def interval(self, method: Literal["wilson", "beta"] | None = None) -> tuple[float, float]:
        """The 95 % interval to report: Wilson's score interval on `n_eff`, or Clopper and Pearson's
        ("beta") where `exact`."""
        from statsmodels.stats.proportion import proportion_confint

        n, method = self.n_eff(), method or ("beta" if self.exact else "wilson")
        low, high = proportion_confint(self.value * n, n, method=method)
        return max(0.0, float(low)), min(1.0, float(high))

    def t_interval(self) -> tuple[float, float]:
        """value ± t · standard error, cut off at 0 and 1. Raises InputError with one cluster."""
        half = self._critical_t() * math.sqrt(self.variance or 0)
        return max(0.0, self.value - half), min(1.0, self.value + half)

    def _critical_t(self) -> float:
        from scipy.stats import t

        if self.variance is None:
            raise InputError("An interval needs at least two participants (and two prompts).")
        return float(t.ppf(0.975, self.df))

    def t_test(
        self, null: float = 0.5, alternative: Literal["two-sided", "greater", "less"] = "two-sided"
    ) -> tuple[float, float] | None:
        """Student's t and its p of `value` = `null`; None where participants do not differ at all,
        so that there is no scale to measure against (the permutation test remains)."""
        from scipy.stats import t

        if self.variance is None or self.variance < _NO_VARIANCE:
            return None
        statistic = (self.value - null) / math.sqrt(self.variance)
        if alternative == "two-sided":
            return statistic, 2 * float(t.sf(abs(statistic), self.df))
        tail = t.sf if alternative == "greater" else t.cdf
        return statistic, float(tail(statistic, self.df))


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


def clustered_variances(
    scores: "Floats", bread: "Floats", clusters: "Sequence[Places]"
) -> "tuple[Floats, int]":
    """Sandwich variances of a fit's coefficients, and their degrees of freedom.

    scores: (n, k) what each vote adds to the derivative of the log likelihood. bread: (k, k) the
    inverse of the information. clusters: one or two groupings of the votes, each (n,). With two
    (Cameron, Gelbach and Miller, J. Business & Economic Statistics 29 (2011) 238) it is the
    variance by the first plus that by the second minus that by both, each times G / (G - 1); where
    this comes out below the larger of the first two, the larger stands. The degrees of freedom are
    the smaller number of clusters minus 1.
    """
    import numpy as np
    from statsmodels.stats.sandwich_covariance import cov_cluster, cov_cluster_2groups

    fit = (scores, bread)
    found = (
        cov_cluster_2groups(fit, *clusters) if len(clusters) > 1 else [cov_cluster(fit, *clusters)]
    )
    variances = np.max([np.diag(one) for one in found], axis=0)
    return variances, min(len(np.unique(one)) for one in clusters) - 1


def places(names: Sequence[str | None]) -> "Places":
    """(n,) place of each name among the sorted different ones."""
    import numpy as np

    order = {name: place for place, name in enumerate(sorted(map(str, set(names))))}
    return np.array([order[str(name)] for name in names], dtype=np.int64)


def prompts_are_shared(votes: "Sequence[Score] | Sequence[Vote]") -> bool:
    """Whether votes on one prompt have to count as alike: two participants voted on the same one,
    and there are at least two of them."""
    seen_by = Counter(prompt for prompt, _ in {(one.prompt, one.participant) for one in votes})
    return None not in seen_by and len(seen_by) > 1 and max(seen_by.values()) > 1


def estimate(scores: Sequence[Score]) -> Estimate:
    """The estimand with participants as clusters: what to use when prompts are not shared."""
    means = participant_means(scores)
    value = math.fsum(means.values()) / len(means)
    if len(means) < 2:
        return Estimate(value, None, 0, 1, len(scores))
    squares = math.fsum((mean - value) ** 2 for mean in means.values())
    n = len(means)
    return Estimate(value, squares / (n - 1) / n, n - 1, n, len(scores))


def estimate_two_way(scores: Sequence[Score]) -> Estimate:
    """The same value, with votes on the same prompt counted as alike, too; see
    `clustered_variances`. Raises InputError where a score names no prompt."""
    import numpy as np

    if any(score.prompt is None for score in scores):
        raise InputError("Clustering by prompt needs the prompt of every vote.")
    value = estimate(scores).value
    who = places([score.participant for score in scores])
    what = places([score.prompt for score in scores])
    n, n_prompts = int(who.max()) + 1, int(what.max()) + 1
    if n < 2 or n_prompts < 2:
        return Estimate(value, None, 0, n, len(scores), "participants and prompts")
    deviations = np.array([score.value for score in scores]) - value
    weighted = deviations / (n * np.bincount(who)[who])  # each participant weighs the same
    variances, df = clustered_variances(weighted[:, None], np.eye(1), [who, what])
    return Estimate(value, float(variances[0]), df, n, len(scores), "participants and prompts")


def best_estimate(scores: Sequence[Score]) -> Estimate:
    """Clustered by prompt as well where prompts were shared. Raises InputError without scores."""
    return estimate_two_way(scores) if prompts_are_shared(scores) else estimate(scores)


@dataclass(frozen=True, slots=True)
class Share:
    """A mean over participants, in [0, 1], with its 95 % interval. value: None without votes.

    design_effect: the variance over that of as many independent votes. note: why there is no
    interval, or no value.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = "none"
    clusters: Clusters = "participants"
    n_participants: int = 0
    n_votes: int = 0
    n_eff: float | None = None
    design_effect: float | None = None
    note: str = ""


def share(scores: Sequence[Score], *, prompts: bool = True) -> Share:
    """The mean over participants with the interval that fits how the votes hang together. prompts:
    cluster by prompt as well, where they were shared."""
    if not scores:
        return Share(note="There are no votes.")
    found = best_estimate(scores) if prompts else estimate(scores)
    sizes = (found.clusters, found.n_participants, found.n_votes)
    if found.variance is None:
        note = "One participant alone has no interval."
        return Share(found.value, None, None, "none", *sizes, None, None, note)
    method = "Clopper–Pearson on n_eff" if found.exact else "Wilson on n_eff"
    low, high = found.interval()
    return Share(found.value, low, high, method, *sizes, found.n_eff(), found.design_effect)


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
    """Two-sided permutation test of mean = `null` with participants as the units.

    If the null is true, each participant's mean is as likely above it as below. All 2^N ways of
    flipping are tried up to EXACT_UP_TO participants, 99,999 drawn ones otherwise. The smallest
    possible p is 2 / 2^N: five participants can't reach 0.05.
    """
    import numpy as np

    deviations = np.array(list(participant_means(scores).values())) - null
    n = len(deviations)
    if np.abs(deviations).max() < 1e-12 or n < 2:
        return 1.0
    seen = abs(math.fsum(deviations)) - 1e-9
    if n <= EXACT_UP_TO:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float((np.abs(signs @ deviations) >= seen).mean())
    # Participants whose deviations have the same size are flipped together: how many of them stay
    # is binomial. Rounded and sorted, so that neither ids nor the order of rows change a digit.
    sizes, counts = np.unique(np.abs(deviations).round(12), return_counts=True)
    rng = np.random.default_rng(seed)
    sums = np.zeros(_DRAWN)
    for size, count in zip(sizes, counts, strict=True):
        sums += size * (2 * rng.binomial(count, 0.5, _DRAWN) - count)
    return float(1 + (np.abs(sums) >= seen).sum()) / (_DRAWN + 1)


def krippendorffs_alpha(ratings: Mapping[Hashable, Sequence[Hashable]]) -> float | None:
    """Krippendorff's α for nominal labels: 1 full agreement, 0 what chance gives.

    ratings: item -> its labels, one per rater, in any order; items with one label say nothing.
    Only meaningful where several people judged the very same two answers. Krippendorff, Content
    Analysis (2004), chapter 11. None where it is undefined: fewer than two labels on every item,
    or one and the same label throughout.
    """
    pairable = [Counter(labels) for labels in ratings.values() if len(labels) > 1]
    totals = sum(pairable, Counter[Hashable]())
    n = totals.total()
    if len(totals) < 2:
        return None
    observed = math.fsum(
        sum(count * (item.total() - count) for count in item.values()) / (item.total() - 1)
        for item in pairable
    )
    expected = sum(count * (n - count) for count in totals.values()) / (n - 1)
    return 1 - observed / expected


def ratings_of(votes: Sequence[Vote]) -> dict[Hashable, list[Hashable]]:
    """Votes by fixed prompt and pair of arms, as labels for `krippendorffs_alpha`. Skips and votes
    in free chat are left out. Only for pairs whose answers were frozen for all participants."""
    found: defaultdict[Hashable, list[Hashable]] = defaultdict(list)
    for vote in votes:
        if vote.prompt is not None and vote.choice != "skip":
            found[vote.prompt, *sorted((vote.left, vote.right))].append(vote.answer)
    return dict(found)


def bang_index(right: int, wrong: int, unsure: int) -> tuple[float, float, float]:
    """Bang's blinding index with its 95 % interval: 1 all could tell, 0 blind (or balanced
    guessing), -1 all guessed the reverse.

    Share that guessed right minus share that guessed wrong; who is unsure counts in n. Bang, Ni and
    Davis, Controlled Clinical Trials 25 (2004) 143, with their normal interval; where that has no
    width (all gave the same answer), Wilson's interval of the guesses, with unsure as ½. Raises
    InputError without guesses.
    """
    from scipy.stats import norm
    from statsmodels.stats.proportion import proportion_confint

    n = right + wrong + unsure
    if not n:
        raise InputError("There are no guesses to compute a blinding index from.")
    value = (right - wrong) / n
    variance = ((right + wrong) / n - value**2) / n
    if variance > 1e-12:
        half = float(norm.ppf(0.975)) * math.sqrt(variance)
        low, high = value - half, value + half
    else:
        bounds = proportion_confint((1 + value) / 2 * n, n, method="wilson")
        low, high = (2 * float(bound) - 1 for bound in bounds)
    return value, max(-1.0, min(low, value)), min(1.0, max(high, value))
