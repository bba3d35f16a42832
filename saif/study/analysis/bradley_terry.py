"""More than two arms: one strength for each, from votes on pairs, ties included.

Davidson's extension of the Bradley–Terry model (J. American Statistical Association 65 (1970)
317): with strengths π, arm i beats j with probability π_i / (π_i + π_j + ν √(π_i π_j)), and they
tie with probability ν √(π_i π_j) / (the same sum).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from saif.errors import InputError
from saif.study.analysis.estimates import holm
from saif.study.participation.votes import Vote, check_votes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Counts = NDArray[np.float64]
    """(n_pairs, 3): wins of the first arm of a pair, wins of the second, ties."""

    Strengths = NDArray[np.float64]
    """(n_arms,) log strengths; they add up to 0."""

PSEUDO_COUNT = 0.5
"""Wins given to both arms of each compared pair where a strength would come out infinite."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """Difference of log strengths, `first` minus `second`. low, high: 95 % intervals that hold for
    all contrasts together. p: two-sided, adjusted by Holm. All None where participants
    do not differ, so that resampling them says nothing."""

    first: str
    second: str
    value: float
    low: float | None
    high: float | None
    p: float | None

    @property
    def winner(self) -> str | None:
        """The arm that is surely stronger, if one is."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return self.first if self.low > 0 else self.second


@dataclass(frozen=True, slots=True)
class BradleyTerry:
    """strengths: arm -> log strength, adding up to 0. tie: Davidson's ν, 0 without ties. ranks:
    arm -> the best and the worst rank that its contrasts leave possible. pseudo_counts: the win
    graph is not strongly connected, so ½ wins were added and the strengths are pulled together;
    say so wherever they are shown."""

    strengths: dict[str, float]
    tie: float
    contrasts: tuple[Contrast, ...]
    ranks: dict[str, tuple[int, int]]
    pseudo_counts: bool
    n_participants: int
    n_votes: int


def bradley_terry(votes: Sequence[Vote], *, resamples: int = 2000, seed: int = 0) -> BradleyTerry:
    """Fit the model, and resample participants for its intervals.

    The intervals are value ± c · bootstrap standard error, with c the 95 % point of the largest
    standardised deviation over all contrasts. Raises InputError for fewer than two arms or
    participants, arms that no chain of comparisons connects, and duplicated trials.
    """
    import numpy as np

    check_votes(votes)
    votes = [vote for vote in votes if vote.choice != "skip"]
    arms = sorted({arm for vote in votes for arm in (vote.left, vote.right)})
    participants = sorted({vote.participant for vote in votes})
    if len(arms) < 2 or len(participants) < 2:
        raise InputError("Strengths need votes of at least two participants on at least two arms.")
    pairs = list(combinations(range(len(arms)), 2))
    counts = _counts(votes, arms, participants)
    fitted, tie, padded = _fit(counts.sum(axis=0), pairs, len(arms))

    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, len(arms)))
    for row in range(resamples):
        drawn = rng.integers(len(participants), size=len(participants))
        resampled = counts[drawn].sum(axis=0)
        # The pairs of the full data are kept compared, or a resample could fall apart.
        compared = counts.sum(axis=(0, 2)) > 0
        draws[row] = _fit(resampled, pairs, len(arms), compared=compared)[0]
    contrasts = _contrasts(arms, pairs, fitted, draws)
    return BradleyTerry(
        strengths={arm: float(value) for arm, value in zip(arms, fitted, strict=True)},
        tie=tie,
        contrasts=contrasts,
        ranks={arm: _rank(arm, arms, contrasts) for arm in arms},
        pseudo_counts=padded,
        n_participants=len(participants),
        n_votes=len(votes),
    )


def _counts(votes: Sequence[Vote], arms: list[str], participants: list[str]) -> "Counts":
    """(n_participants, n_pairs, 3), as `Counts` for each participant."""
    import numpy as np

    pair_of = {pair: place for place, pair in enumerate(combinations(arms, 2))}
    row_of = {name: row for row, name in enumerate(participants)}
    counts = np.zeros((len(participants), len(pair_of), 3))
    for vote in votes:
        first, second = sorted((vote.left, vote.right))
        if first == second:
            raise InputError(f"Trial '{vote.trial}' compares '{first}' with itself.")
        outcome = {first: 0, second: 1}.get(vote.preferred or "", 2)
        counts[row_of[vote.participant], pair_of[first, second], outcome] += 1
    return counts


def _fit(
    counts: "Counts",
    pairs: Sequence[tuple[int, int]],
    n_arms: int,
    compared: "NDArray[np.bool_] | None" = None,
) -> "tuple[Strengths, float, bool]":
    """Maximum likelihood by Newton's method: log strengths, ν, and whether ½ wins were added.

    The likelihood is concave in the log strengths and log ν, and has a maximum exactly if every
    arm can be reached from every other along wins.
    """
    import numpy as np
    from scipy.sparse.csgraph import connected_components

    compared = counts.sum(axis=1) > 0 if compared is None else compared
    won = np.zeros((n_arms, n_arms))
    for (i, j), (first, second, _) in zip(pairs, counts, strict=True):
        won[i, j], won[j, i] = first, second
    padded = connected_components(won, connection="strong")[0] > 1
    if padded:
        linked = np.zeros((n_arms, n_arms))
        for (i, j), seen in zip(pairs, compared, strict=True):
            linked[i, j] = seen
        if connected_components(linked, directed=False)[0] > 1:
            raise InputError(
                "Some arms were never compared, not even through others.",
                hint="Analyse them apart.",
            )
        counts = counts + PSEUDO_COUNT * compared[:, None] * np.array([1, 1, 0])
    has_ties = bool(counts[:, 2].sum() > 0)

    # A row per outcome of a pair: its logit is linear in (log strengths, log ν).
    design = np.zeros((len(pairs), 3, n_arms + has_ties))
    for place, (i, j) in enumerate(pairs):
        design[place, :2, i] = 0.5, -0.5
        design[place, :2, j] = -0.5, 0.5
    if has_ties:
        design[:, 2, -1] = 1
    else:
        design, counts = design[:, :2], counts[:, :2]
    found = _newton(design, counts, n_arms)
    strengths = found[:n_arms] - found[:n_arms].mean()
    return strengths, float(np.exp(found[-1])) if has_ties else 0.0, bool(padded)


def _newton(design: "NDArray[np.float64]", counts: "Counts", n_arms: int) -> "Strengths":
    """Maximise Σ counts · log softmax(design @ x) over x, with the first `n_arms` adding up to 0.

    The step is halved until the likelihood rises, so that a far start can't run away.
    """
    import numpy as np

    def log_shares(x: "Strengths") -> "NDArray[np.float64]":
        logits = design @ x
        highest = logits.max(axis=1, keepdims=True)
        return logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))

    n = counts.sum(axis=1)
    centre = np.zeros((design.shape[-1], design.shape[-1]))
    centre[:n_arms, :n_arms] = 1  # fixes the one direction that the likelihood does not know
    x = np.zeros(design.shape[-1])
    for _ in range(100):
        shares = np.exp(log_shares(x))
        gradient = np.einsum("po,pox->x", counts - n[:, None] * shares, design)
        mean = np.einsum("po,pox->px", shares, design)
        second = np.einsum("p,po,pox,poy->xy", n, shares, design, design)
        step = np.linalg.solve(second - np.einsum("p,px,py->xy", n, mean, mean) + centre, gradient)
        before = float((counts * log_shares(x)).sum())
        while float((counts * log_shares(x + step)).sum()) < before - 1e-9 * abs(before):
            step = step / 2
        x = x + step
        if float(np.abs(step).max()) < 1e-10:
            break
    return x


def _contrasts(
    arms: list[str],
    pairs: Sequence[tuple[int, int]],
    fitted: "Strengths",
    draws: "NDArray[np.float64]",
) -> tuple[Contrast, ...]:
    import numpy as np
    from scipy.stats import norm

    first, second = (list(side) for side in zip(*pairs, strict=True))
    values = fitted[first] - fitted[second]
    drawn = draws[:, first] - draws[:, second]
    errors = drawn.std(axis=0, ddof=1)
    if errors.min() < 1e-9:
        return tuple(
            Contrast(arms[i], arms[j], float(value), None, None, None)
            for (i, j), value in zip(pairs, values, strict=True)
        )
    widest = np.abs((drawn - drawn.mean(axis=0)) / errors).max(axis=1)
    half = float(np.quantile(widest, 0.95)) * errors
    raw = map(float, 2 * norm.sf(np.abs(values) / errors))
    adjusted = holm({str(place): p for place, p in enumerate(raw)})
    return tuple(
        Contrast(
            arms[i],
            arms[j],
            float(values[place]),
            float(values[place] - half[place]),
            float(values[place] + half[place]),
            adjusted[str(place)],
        )
        for place, (i, j) in enumerate(pairs)
    )


def _rank(arm: str, arms: list[str], contrasts: Sequence[Contrast]) -> tuple[int, int]:
    """1 is best; arms that are surely stronger or weaker narrow the range."""
    lost = sum(
        arm in (one.first, one.second) and one.winner not in (None, arm) for one in contrasts
    )
    won = sum(one.winner == arm for one in contrasts)
    return 1 + lost, len(arms) - won
