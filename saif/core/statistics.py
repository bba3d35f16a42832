"""Rates, paired comparisons, and their uncertainty."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Rate:
    """`successes` out of `n`."""

    successes: int
    n: int

    @property
    def value(self) -> float:
        return self.successes / self.n if self.n else float("nan")

    def wilson(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval."""
        return _wilson(self.successes, self.n, confidence)


@lru_cache(maxsize=4096)  # the same few counts come again and again, and scipy takes its time
def _wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def rate(outcomes: list[bool]) -> Rate:
    return Rate(sum(outcomes), len(outcomes))


@dataclass(frozen=True, slots=True)
class PairedTable:
    """Two yes/no outcomes of the same `n` cases, counted. The discordant counts are `first_only`
    and `second_only`; they alone say which of the two is better."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def first(self) -> Rate:
        return Rate(self.both + self.first_only, self.n)

    @property
    def second(self) -> Rate:
        return Rate(self.both + self.second_only, self.n)

    @property
    def difference(self) -> float:
        """Rate of the first minus rate of the second."""
        return (self.first_only - self.second_only) / self.n if self.n else float("nan")

    @property
    def p(self) -> float:
        """Exact two-sided McNemar test: the discordant cases are coin tosses if neither is better.

        McNemar, Psychometrika 12 (1947) 153. 1 if no case is discordant.
        """
        from scipy.stats import binomtest

        discordant = self.first_only + self.second_only
        return float(binomtest(self.first_only, discordant).pvalue) if discordant else 1.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Newcombe's hybrid score interval of the difference for paired data.

        Method 10 of Newcombe, Statistics in Medicine 17 (1998) 2635: the two Wilson intervals,
        squared and added, with the correlation of the outcomes corrected for continuity.
        """
        first, second = self.first.value, self.second.value
        low_1, high_1 = self.first.wilson(confidence)
        low_2, high_2 = self.second.wilson(confidence)
        phi = self._correlation()
        down = _square_and_add(first - low_1, high_2 - second, phi)
        up = _square_and_add(high_1 - first, second - low_2, phi)
        return max(-1.0, self.difference - down), min(1.0, self.difference + up)

    def _correlation(self) -> float:
        yes_1, yes_2 = self.first.successes, self.second.successes
        margins = yes_1 * (self.n - yes_1) * yes_2 * (self.n - yes_2)
        if not margins:
            return 0.0
        above: float = self.both * self.neither - self.first_only * self.second_only
        if above > 0:
            above = max(above - self.n / 2, 0)
        return above / math.sqrt(margins)


def _square_and_add(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def mcnemar(pairs: Sequence[tuple[bool, bool]]) -> PairedTable:
    """Count paired outcomes (first, second); `p` and `interval()` of what comes back decide."""
    counts = Counter((bool(first), bool(second)) for first, second in pairs)
    return PairedTable(
        both=counts[True, True],
        first_only=counts[True, False],
        second_only=counts[False, True],
        neither=counts[False, False],
    )


_NO_WIDTH = 1e-6
"""An interval narrower than this says that its formula broke down, not that κ is certain."""


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's κ over `n` pairs: 1 is full agreement, 0 what chance gives."""

    value: float
    n: int
    low: float | None
    """Of the 95 % interval for large n (Fleiss, Cohen and Everitt 1969), cut off at ±1. None where
    that formula has no width, as when two judges agree on everything."""
    high: float | None


def cohens_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> Kappa | None:
    """Agreement of two sequences of labels, pair by pair.

    None where κ is undefined: no pairs, or one and the same label used by both throughout.
    """
    labels = {label: place for place, label in enumerate(dict.fromkeys([*first, *second]))}
    pairs = list(zip(first, second, strict=True))
    if len(labels) < 2:
        return None
    import numpy as np
    from statsmodels.stats.inter_rater import cohens_kappa as kappa_of

    table = np.zeros((len(labels), len(labels)), dtype=int)
    for one, other in pairs:
        table[labels[one], labels[other]] += 1
    # Its test statistic divides by zero where one judge used a single label; κ itself doesn't.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = kappa_of(table)
    value, low, high = float(found.kappa), float(found.kappa_low), float(found.kappa_upp)
    if not high - low > _NO_WIDTH:  # so that NaN has none either
        return Kappa(value, len(pairs), None, None)
    return Kappa(value, len(pairs), max(-1.0, low), min(1.0, high))
