"""How many participants a study needs, by simulating it.

A participant's own rate of preferring the arm is drawn from a beta distribution with the given
mean and intraclass correlation, then each vote is a tie or a draw at that rate; the test is the
two-sided t test of participant means. More votes from the same people help little past ten.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.core.types import check_between
from saif.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PARTICIPANTS = 20_000
MAX_LOOKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is expected of a study.

    rate: of preferring the arm among votes that are no tie. votes: per participant and preset.
    icc: of one participant's votes, among those that are no tie. ties: share of votes. random:
    share of participants who answer by chance. exclusion, dropout: shares of participants who are
    recruited but don't count. presets: tested in one family, so each at alpha / presets, which is
    Holm's strictest step. looks: how often the outcome is looked at, evenly spaced, with
    O'Brien–Fleming bounds.
    """

    rate: float
    votes: int = 10
    icc: float = 0.15
    ties: float = 0.0
    random: float = 0.0
    exclusion: float = 0.0
    dropout: float = 0.0
    presets: int = 1
    looks: int = 1
    alpha: float = 0.05

    def __post_init__(self) -> None:
        limits = [
            ("rate", self.rate, 0.01, 0.99),
            ("votes", self.votes, 1, 1000),
            ("icc", self.icc, 0, 0.95),
            ("ties", self.ties, 0, 0.95),
            ("random", self.random, 0, 0.95),
            ("exclusion", self.exclusion, 0, 0.95),
            ("dropout", self.dropout, 0, 0.95),
            ("presets", self.presets, 1, 100),
            ("looks", self.looks, 1, MAX_LOOKS),
            ("alpha", self.alpha, 0.0001, 0.2),
        ]
        for name, value, low, high in limits:
            check_between(name, value, low, high)

    def recruit(self, participants: int, *, exclusion: float | None = None) -> int:
        """How many to enrol so that the data of so many count. exclusion: instead of one's own."""
        excluded = self.exclusion if exclusion is None else exclusion
        return math.ceil(participants / (1 - excluded) / (1 - self.dropout) - 1e-9)


@dataclass(frozen=True, slots=True)
class Recruiting:
    """participants: whose data must count. recruit: how many to enrol for that. power: what the
    simulation found at that number, give or take `error` (one standard error)."""

    participants: int
    recruit: int
    power: float
    error: float


def power(
    scenario: Scenario, participants: int, *, studies: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """The share of simulated studies whose test comes out significant, and its standard error.

    participants: whose data count, after exclusions and dropouts. Raises InputError below two, or
    where the looks leave fewer than two for the first.
    """
    if not max(2, 2 * scenario.looks) <= participants <= MAX_PARTICIPANTS:
        raise InputError(
            f"participants must lie between {max(2, 2 * scenario.looks)} and {MAX_PARTICIPANTS}, "
            f"not {participants}."
        )
    means = _participant_means(scenario, participants, studies, seed)
    share = _significant(scenario, means, participants)
    return share, math.sqrt(share * (1 - share) / studies)


def participants_needed(
    scenario: Scenario,
    *,
    target: float = 0.8,
    studies: int = 4000,
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> Recruiting:
    """The smallest number of participants that reaches the target power.

    The same simulated people are used at every number, so that power rises with it nearly evenly.
    tell: is told each number that is tried.
    Raises InputError at a rate of ½, or where MAX_PARTICIPANTS don't suffice.
    """
    check_between("target", target, 0.05, 0.99)
    if abs(scenario.rate - 0.5) < 0.005:
        raise InputError(
            "A rate of ½ is what the test calls no preference; no number of participants shows it.",
            hint="Give the smallest rate that would matter to you.",
        )

    def reaches(means: "NDArray[np.float64]", participants: int) -> bool:
        if tell:
            tell(participants)
        return _significant(scenario, means, participants) >= target

    low, high = 2 * scenario.looks, max(16, 4 * scenario.looks)
    means = _participant_means(scenario, high, studies, seed)
    while not reaches(means, high):
        low, high = high, high * 2
        if high > MAX_PARTICIPANTS:
            raise InputError(f"More than {MAX_PARTICIPANTS // 2} participants would be needed.")
        means = _participant_means(scenario, high, studies, seed)
    while low < high:
        middle = (low + high) // 2
        if reaches(means, middle):
            high = middle
        else:
            low = middle + 1
    share = _significant(scenario, means, high)
    return Recruiting(
        participants=high,
        recruit=scenario.recruit(high),
        power=share,
        error=math.sqrt(share * (1 - share) / studies),
    )


def obrien_fleming(looks: int, alpha: float = 0.05) -> list[float]:
    """The bound on |z| at each of `looks` evenly spaced looks: c √(looks / k) at look k.

    O'Brien and Fleming, Biometrics 35 (1979) 549; c makes the chance of crossing any bound alpha.
    Raises InputError outside 1 to MAX_LOOKS looks.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.stats import multivariate_normal, norm

    check_between("looks", looks, 1, MAX_LOOKS)
    if looks == 1:
        return [float(norm.isf(alpha / 2))]
    k = np.arange(1, looks + 1)
    correlation = np.sqrt(np.minimum.outer(k, k) / np.maximum.outer(k, k))
    shape = np.sqrt(looks / k)

    def excess(c: float) -> float:
        inside = multivariate_normal.cdf(
            c * shape,
            mean=np.zeros(looks),
            cov=correlation,
            lower_limit=-c * shape,
            abseps=2e-5,
            releps=2e-5,
            rng=np.random.default_rng(0),
        )
        return float(1 - inside - alpha)

    c = brentq(excess, norm.isf(alpha / 2) - 1e-3, norm.isf(alpha / 2 / looks) + 1e-3, xtol=1e-4)
    return [float(c * bound) for bound in shape]


def _participant_means(
    scenario: Scenario, participants: int, studies: int, seed: int
) -> "NDArray[np.float64]":
    """(studies, participants) mean scores, each in [0, 1]."""
    import numpy as np

    rng = np.random.default_rng(seed)
    size = (participants, studies)
    rates = np.full(size, scenario.rate)
    if scenario.icc > 0:
        spread = (1 - scenario.icc) / scenario.icc
        rates = rng.beta(scenario.rate * spread, (1 - scenario.rate) * spread, size)
    if scenario.random > 0:
        rates = np.where(rng.random(size) < scenario.random, 0.5, rates)
    decided = rng.binomial(scenario.votes, 1 - scenario.ties, size)
    wins = rng.binomial(decided, rates)
    return np.ascontiguousarray(((wins + 0.5 * (scenario.votes - decided)) / scenario.votes).T)


def _significant(scenario: Scenario, means: "NDArray[np.float64]", participants: int) -> float:
    """The share of studies whose first `participants` give p below alpha at any look."""
    import numpy as np
    from scipy.stats import norm, t

    crossed = np.zeros(len(means), dtype=bool)
    alpha = scenario.alpha / scenario.presets
    for look, bound in enumerate(obrien_fleming(scenario.looks, alpha), 1):
        n = participants * look // scenario.looks
        seen = means[:, :n] - 0.5
        error = seen.std(axis=1, ddof=1) / math.sqrt(n)
        centre = seen.mean(axis=1)
        critical = t.isf(norm.sf(bound), n - 1)
        crossed |= np.abs(centre) > np.maximum(error, 1e-12) * critical
    return float(crossed.mean())
