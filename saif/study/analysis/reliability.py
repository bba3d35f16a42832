"""Do people agree, with each other and with themselves; and could they tell what was changed?"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from saif.core.statistics import Kappa, cohens_kappa
from saif.errors import InputError
from saif.study.analysis.estimates import Estimate, estimate
from saif.study.participation.votes import Score, Vote

Guess = Literal["right", "wrong", "unsure"]
"""A participant's answer to "which of the two was changed?", against the truth."""


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


@dataclass(frozen=True, slots=True)
class Retest:
    """Trials that were shown twice, sides swapped. flips: the mean over participants of the share
    whose answer (which arm, tie or both bad) changed. kappa: None where it is undefined."""

    flips: Estimate
    kappa: Kappa | None


def retest(pairs: Sequence[tuple[Vote, Vote]]) -> Retest:
    """(first, second) votes on the same answers. Raises InputError without pairs, or where the two
    votes are not the same participant's on the same arms."""
    for first, second in pairs:
        same = {first.left, first.right} == {second.left, second.right}
        if first.participant != second.participant or not same:
            raise InputError(f"Trials '{first.trial}' and '{second.trial}' are no retest pair.")
    kept = [pair for pair in pairs if "skip" not in (pair[0].choice, pair[1].choice)]
    answers = [tuple(vote.preferred or vote.choice for vote in pair) for pair in kept]
    scores = [
        Score(first.participant, first.prompt, float(answer[0] != answer[1]))
        for (first, _), answer in zip(kept, answers, strict=True)
    ]
    return Retest(
        flips=estimate(scores),
        kappa=cohens_kappa([one for one, _ in answers], [other for _, other in answers]),
    )


@dataclass(frozen=True, slots=True)
class BlindingIndex:
    """Bang's index: 1 all could tell, 0 blind (or balanced guessing), -1 all guessed the reverse.
    low, high: its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def bang_index(guesses: Mapping[str, Guess], confidence: float = 0.95) -> BlindingIndex:
    """Share that guessed right minus share that guessed wrong; who is unsure counts in n.

    guesses: participant -> the one guess. Bang, Ni and Davis, Controlled Clinical Trials 25 (2004)
    143, with their normal interval; where that has no width (all gave the same answer), Wilson's
    interval of the guesses, with unsure as ½. Raises InputError without guesses.
    """
    from scipy.stats import norm
    from statsmodels.stats.proportion import proportion_confint

    n = len(guesses)
    if not n:
        raise InputError("There are no guesses to compute a blinding index from.")
    counts = Counter(guesses.values())
    right, wrong = counts["right"] / n, counts["wrong"] / n
    value = right - wrong
    variance = (right * (1 - right) + wrong * (1 - wrong) + 2 * right * wrong) / n
    if variance > 0:
        half = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(variance)
        low, high = value - half, value + half
    else:
        share = (1 + value) / 2
        bounds = proportion_confint(share * n, n, alpha=1 - confidence, method="wilson")
        low, high = (2 * float(bound) - 1 for bound in bounds)
    return BlindingIndex(value, max(-1.0, low), min(1.0, high), n)


def ratings_of(votes: Sequence[Vote]) -> dict[Hashable, list[Hashable]]:
    """Votes by fixed prompt and pair of arms, as labels for `krippendorffs_alpha`. Skips and votes
    in free chat are left out. Only for pairs whose answers were frozen for all participants."""
    found: defaultdict[Hashable, list[Hashable]] = defaultdict(list)
    for vote in votes:
        if vote.prompt is not None and vote.choice != "skip":
            pair = (vote.prompt, *sorted((vote.left, vote.right)))
            found[pair].append(vote.preferred or vote.choice)
    return dict(found)
