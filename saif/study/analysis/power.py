"""How many participants a study needs, by simulating it.

A participant's own rate of preferring the arm is drawn from a beta distribution with the given
mean and intraclass correlation, then each vote is a tie or a draw at that rate; the test is the
two-sided t test of participant means. More votes from the same people help little past ten.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.core.types import check_between
from saif.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PARTICIPANTS = 20_000

_LIMITS = {"rate": (0.01, 0.99), "votes": (1, 1000), "presets": (1, 100), "alpha": (0.0001, 0.2)}
"""Of a scenario's numbers; all others are shares up to 0.95."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is expected of a study.

    exclusion, dropout: shares of participants who are recruited but don't count.
    """

    rate: float
    """Of preferring the arm, among votes that are no tie."""
    votes: int = 10
    """Per participant and preset."""
    icc: float = 0.15
    """Of one participant's votes, among those that are no tie."""
    ties: float = 0.0
    """Share of votes."""
    random: float = 0.0
    """Share of participants who answer by chance."""
    exclusion: float = 0.0
    dropout: float = 0.0
    presets: int = 1
    """Tested in one family, so each at alpha / presets, which is Holm's strictest step."""
    alpha: float = 0.05

    def __post_init__(self) -> None:
        for name in self.__slots__:
            check_between(name, getattr(self, name), *_LIMITS.get(name, (0, 0.95)))

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
) -> Recruiting:
    """The share of simulated studies whose test comes out significant.

    participants: whose data count, after exclusions and dropouts. Raises InputError below two.
    """
    check_between("participants", participants, 2, MAX_PARTICIPANTS)
    means = _participant_means(scenario, participants, studies, seed)
    return _recruiting(scenario, participants, _significant(scenario, means, participants), studies)


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

    low, high = 2, 16
    while not reaches(means := _participant_means(scenario, high, studies, seed), high):
        low, high = high, high * 2
        if high > MAX_PARTICIPANTS:
            raise InputError(f"More than {MAX_PARTICIPANTS // 2} participants would be needed.")
    found = bisect_left(range(high), True, lo=low, key=lambda n: reaches(means, n))
    return _recruiting(scenario, found, _significant(scenario, means, found), studies)


def _recruiting(scenario: Scenario, participants: int, share: float, studies: int) -> Recruiting:
    error = math.sqrt(share * (1 - share) / studies)
    return Recruiting(participants, scenario.recruit(participants), share, error)


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
    """The share of studies whose first `participants` give p below alpha."""
    import numpy as np
    from scipy.stats import t

    seen = means[:, :participants] - 0.5
    error = seen.std(axis=1, ddof=1) / math.sqrt(participants)
    critical = t.isf(scenario.alpha / scenario.presets / 2, participants - 1)
    return float((np.abs(seen.mean(axis=1)) > np.maximum(error, 1e-12) * critical).mean())
