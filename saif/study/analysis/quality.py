"""How good the data are: who came how far, how they voted, whether they were blind and awake.

Nothing here says which arm was preferred, so it may be looked at while a study runs.
"""

import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from saif.core.statistics import cohens_kappa
from saif.study.analysis.data import StudyData
from saif.study.analysis.estimates import Share, bang_index, share
from saif.study.design.study_file import Study
from saif.study.participation.votes import Score, Vote, left_scores

SECONDS = (1, 2, 3, 5, 10, 20, 30, 60)
"""Edges of the histogram of response times."""


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram. second: a second bar beside the first, where there are two."""

    label: str
    n: int
    second: int | None = None


@dataclass(frozen=True, slots=True)
class Steadiness:
    """Trials that were shown again, sides swapped. kappa_low, kappa_high: its 95 % interval."""

    pairs: int
    flips: Share
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None


@dataclass(frozen=True, slots=True)
class Blinding:
    """Bang's index with its 95 % interval, over those who were asked which answer was changed."""

    index: float | None = None
    low: float | None = None
    high: float | None = None
    right: int = 0
    wrong: int = 0
    unsure: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Attention:
    """One check: how many answered it, and wrongly (skipping included)."""

    id: str
    answered: int
    missed: int


@dataclass(frozen=True, slots=True)
class Times:
    """Of main trials, in seconds. hasty: votes in less than a second. first_token_gap_ms: median
    and largest difference between the two sides' first tokens."""

    n: int
    median: float | None
    quarter: float | None
    three_quarters: float | None
    hasty: int
    histogram: tuple[Bin, ...]
    first_token_gap_ms: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Quality:
    """What may be shown at any time: nothing here says which arm is preferred."""

    flow: Mapping[str, int]
    """Participants from consent on. going_on: neither finished nor gone. voted: with at least one
    vote that counts, who are analysed. per_protocol: who finished and passed the checks."""
    votes: int
    ties: int
    both_bad: int
    skips: int
    voids: Mapping[str, int]
    left: Share
    steadiness: Steadiness | None
    blinding: Blinding
    attention: tuple[Attention, ...]
    times: Times
    notes: tuple[str, ...]


def quality(data: StudyData) -> Quality:
    """What may be shown of any study at any time."""
    votes = data.votes["main"]
    choices = Counter(vote.choice for vote in votes)
    return Quality(
        flow=_flow(data),
        votes=len(votes),
        ties=choices["tie"],
        both_bad=choices["both_bad"],
        skips=choices["skip"],
        voids=dict(sorted(Counter(reason for _, reason in data.voids).items())),
        left=share(left_scores(votes)),
        steadiness=_steadiness(data),
        blinding=_blinding(data),
        attention=tuple(
            Attention(check.id, len(own), sum(choice != check.answer for choice in own))
            for check in data.version.study.attention
            for own in [[choice for _, name, choice in data.checks if name == check.id]]
        ),
        times=_times(data, votes),
        notes=tuple(_notes(data)),
    )


def _flow(data: StudyData) -> dict[str, int]:
    counts, study, members = data.flow, data.version.study, data.members
    gone = ("screened", "stale", "withdrawn", "erased", "complete")
    going_on = counts["enrolled"] + counts["active"]
    return {
        "consented": going_on + sum(counts[status] for status in gone),
        "going_on": going_on,
        **{status: counts[status] for status in gone},
        "missed_checks": sum(
            members.missed_checks.get(one.number, 0) > study.failed_checks
            for one in data.participants
            if one.status == "complete"
        ),
        "voted": len({one.participant for one in data.votes["main"] if one.choice != "skip"}),
        "per_protocol": len(members.of["per-protocol"]),
        "planned": study.quota.complete,
    }


def _steadiness(data: StudyData) -> Steadiness | None:
    """What was answered again, sides swapped; pairs with a skip are left out."""
    pairs = [pair for pair in data.retests if "skip" not in (pair[0].choice, pair[1].choice)]
    if not pairs:
        return None
    changed = [
        Score(one.participant, one.prompt, float(one.answer != two.answer)) for one, two in pairs
    ]
    kappa = cohens_kappa([one.answer for one, _ in pairs], [two.answer for _, two in pairs])
    found = (kappa.value, kappa.low, kappa.high) if kappa else (None, None, None)
    return Steadiness(len(pairs), share(changed, prompts=False), *found)


def changed_arm(study: Study) -> str | None:
    """The arm whose answer counts as the changed one; None where both arms are steered."""
    steered = [arm for arm in study.arms if arm in ("steered", "other")]
    if steered:
        return steered[0] if len(steered) == 1 else None
    return next(arm for arm in study.arms if arm != "unsteered")


def _blinding(data: StudyData) -> Blinding:
    """Each participant's guess, held against the sides of their last main trial."""
    study = data.version.study
    question = next((one for one in study.questions if one.kind == "guess"), None)
    changed = changed_arm(study)
    if question is None:
        return Blinding(note="Nobody was asked.")
    if changed is None:
        return Blinding(note="Both arms were steered.")
    last = {vote.participant: vote for vote in data.votes["main"]}  # in the order of positions
    guesses: dict[str, str] = {}
    for one in data.responses:
        if one.question == question.id and one.value is not None and one.participant in last:
            side = "L" if last[one.participant].left == changed else "R"
            told = "unsure" if one.value == "unsure" else "right" if one.value == side else "wrong"
            guesses[one.participant] = told
    counts = Counter(guesses.values())
    if not guesses:
        return Blinding(note="Nobody has answered yet.")
    n = counts["right"], counts["wrong"], counts["unsure"]
    return Blinding(*bang_index(*n), *n)


def _times(data: StudyData, votes: Sequence[Vote]) -> Times:
    seconds = sorted(one.decided_ms / 1000 for one in votes if one.decided_ms is not None)
    between = [f"{low}–{high}" for low, high in pairwise(SECONDS)]
    labels = [f"<{SECONDS[0]}", *between, f"≥{SECONDS[-1]}"]
    counts = Counter(bisect_right(SECONDS, one) for one in seconds)
    gaps = data.first_token_gaps
    quarters = statistics.quantiles(seconds, method="inclusive") if len(seconds) > 1 else None
    return Times(
        n=len(seconds),
        median=statistics.median(seconds) if seconds else None,
        quarter=quarters[0] if quarters else None,
        three_quarters=quarters[2] if quarters else None,
        hasty=sum(one < 1 for one in seconds),
        histogram=tuple(Bin(label, counts[place]) for place, label in enumerate(labels)),
        first_token_gap_ms=(statistics.median(gaps), max(gaps)) if gaps else None,
    )


def _notes(data: StudyData) -> Iterator[str]:
    versions = {one.version for one in data.participants}
    if len(versions) > 1:
        yield (
            f"Participants took part in {len(versions)} versions of the study; they are analysed "
            "together."
        )
    if data.made_up:
        yield "The participants are made up."
