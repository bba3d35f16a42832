"""How far two judges of the same replies agree beyond chance."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

_NO_WIDTH = 1e-6
"""An interval narrower than this says that its formula broke down, not that κ is certain."""


@dataclass(frozen=True, slots=True)
class Kappa:
    """Cohen's κ over `n` pairs: 1 is full agreement, 0 what chance gives.

    low, high: the 95 % interval for large n (Fleiss, Cohen and Everitt 1969), cut off at ±1. None
    where that formula has no width, as when two judges agree on everything.
    """

    value: float
    n: int
    low: float | None
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
