"""What was found for each preset: the estimand, its tests, and the same reckoned otherwise."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from saif.study.analysis.bradley_terry import bradley_terry
from saif.study.analysis.data import StudyData
from saif.study.analysis.estimates import holm, icc, participant_means, sign_flip_p, tost
from saif.study.analysis.observations import Observation, observations, votes_of
from saif.study.analysis.reliability import krippendorffs_alpha, ratings_of
from saif.study.analysis.results import (
    Bin,
    BySide,
    Counts,
    OneParticipant,
    PresetOutcome,
    Share,
    Tests,
    TieModel,
)
from saif.study.analysis.shares import best_estimate, share
from saif.study.design.study_file import FixedPrompts, Study
from saif.study.participation.votes import Score, preference_scores

MARGIN = 0.05
"""Of the test of equivalence: within five points of ½ is no preference worth the name."""

_RESAMPLES = 500


def outcomes(data: StudyData) -> tuple[PresetOutcome, ...]:
    """One for each preset of the study, in its order."""
    study = data.version.study
    everyone = _by_preset(observations(data))
    attentive = _by_preset(observations(data, per_protocol=True))
    labels = list(dict.fromkeys([*(use.label for use in study.presets), *everyone]))
    found = [_outcome(data, label, everyone[label], attentive[label]) for label in labels]
    p_values = {one.preset: one.tests.headline for one in found if one.tests}
    adjusted = holm(p_values)
    return tuple(
        replace(one, tests=replace(one.tests, holm=adjusted[one.preset])) if one.tests else one
        for one in found
    )


def answers_are_shared(study: Study) -> bool:
    """Whether all participants judged the very same answers: fixed messages, and no chance in the
    sampling. Only then does agreement between them mean anything."""
    return isinstance(study.prompts, FixedPrompts) and study.generation.temperature == 0


def _by_preset(seen: Sequence[Observation]) -> defaultdict[str, list[Observation]]:
    found: defaultdict[str, list[Observation]] = defaultdict(list)
    for one in seen:
        found[one.preset].append(one)
    return found


def _outcome(
    data: StudyData, preset: str, seen: Sequence[Observation], attentive: Sequence[Observation]
) -> PresetOutcome:
    study = data.version.study
    first = study.arms[0]
    votes = votes_of(seen)
    scores = preference_scores(votes, first)
    headline = share(scores)
    sensitivities = {
        "ties dropped": share(preference_scores(votes, first, ties="drop")),
        "per protocol": share(preference_scores(votes_of(attentive), first)),
    }
    if headline.clusters != "participants":
        sensitivities["participants alone as clusters"] = share(scores, prompts=False)
    tests = _tests(scores) if headline.low is not None else None
    shared = answers_are_shared(study)
    return PresetOutcome(
        preset=preset,
        share=headline,
        tests=tests,
        sensitivities=sensitivities,
        tie_model=_tie_model(seen, first),
        icc=icc(scores) if scores else None,
        counts=_counts(data, preset, seen, first),
        alpha=krippendorffs_alpha(ratings_of(votes)) if shared else None,
        strengths=_strengths(study, seen, first),
        by_side=tuple(_by_side(seen, first, side) for side in ("left", "right")),
        participants=_participants(scores),
        notes=tuple(_notes(seen, headline, tests)),
    )


def _tests(scores: Sequence[Score]) -> Tests:
    found, _ = best_estimate(scores)
    test, equivalence = found.t_test(), tost(found, margin=MARGIN)
    return Tests(
        t=test.t if test else None,
        df=test.df if test else None,
        p=test.p if test else None,
        sign_flip=sign_flip_p(scores),
        holm=1.0,  # adjusted once all presets are there
        margin=MARGIN,
        not_lower=equivalence.p_not_lower if equivalence else None,
        not_higher=equivalence.p_not_higher if equivalence else None,
        equivalent=equivalence.p if equivalence else None,
    )


def _tie_model(seen: Sequence[Observation], first: str) -> TieModel | None:
    """None below two participants, or where no vote is for an arm."""
    votes = [one.vote for one in seen if one.vote.choice != "skip"]
    decided = [vote for vote in votes if vote.preferred is not None]
    if len({vote.participant for vote in votes}) < 2 or not decided:
        return None
    found = bradley_terry(votes, resamples=_RESAMPLES)
    one = found.contrasts[0]
    sign = 1 if one.first == first else -1
    ends = [None if end is None else _expit(sign * end) for end in (one.low, one.high)]
    low, high = ends if sign > 0 else ends[::-1]
    return TieModel(
        share=_expit(sign * one.value),
        low=low,
        high=high,
        tie=found.tie,
        p=one.p,
        half_wins=found.pseudo_counts,
    )


def _counts(data: StudyData, preset: str, seen: Sequence[Observation], first: str) -> Counts:
    choices = Counter(
        "first" if one.vote.preferred == first else "second" if one.vote.preferred else
        one.vote.choice
        for one in seen
    )  # fmt: skip
    void = sum(
        (row["preset"], row["kind"], row["state"]) == (preset, "main", "void")
        for row in data.tables["trials"]
    )
    return Counts(
        participants=len({one.vote.participant for one in seen}),
        votes=len(seen),
        first=choices["first"],
        second=choices["second"],
        tie=choices["tie"],
        both_bad=choices["both_bad"],
        skip=choices["skip"],
        void=void,
    )


def _strengths(study: Study, seen: Sequence[Observation], first: str) -> tuple[Bin, ...]:
    """How strong the preference was, for the first arm and for the second."""
    counts = Counter((one.strength, one.vote.preferred == first) for one in seen)
    return tuple(
        Bin(label, counts[level, True], counts[level, False])
        for level, label in enumerate(study.preference.strength, 1)
    )


def _by_side(seen: Sequence[Observation], first: str, side: Literal["left", "right"]) -> BySide:
    here = [one.vote for one in seen if one.first_left == (side == "left")]
    choices = Counter(vote.choice for vote in here)
    return BySide(
        first_arm_on=side,
        first=sum(vote.preferred == first for vote in here),
        second=sum(vote.preferred not in (None, first) for vote in here),
        tie=choices["tie"],
        both_bad=choices["both_bad"],
    )


def _participants(scores: Sequence[Score]) -> tuple[OneParticipant, ...]:
    if not scores:
        return ()
    votes = Counter(score.participant for score in scores)
    return tuple(
        OneParticipant(int(name), mean, votes[name])
        for name, mean in participant_means(scores).items()
    )


def _notes(seen: Sequence[Observation], found: Share, tests: Tests | None) -> list[str]:
    notes = []
    decided = {one.vote.preferred for one in seen if one.vote.choice != "skip"}
    if found.note:
        notes.append(found.note)
    if decided == {None}:
        notes.append("Every vote is a tie, so there is nothing to test.")
    elif len(decided) == 1 and found.value in (0.0, 1.0):
        notes.append("Every vote is for the same arm.")
    if tests and tests.p is None:
        notes.append(
            "Participants do not differ at all, so there is no t test; the permutation test stands "
            "in for it."
        )
    prompts = {one.vote.prompt for one in seen}
    if len(prompts) == 1 and None not in prompts:
        notes.append("All votes are on one message, so nothing is known of other messages.")
    elif found.clusters != "participants" and len(prompts) < 10:
        notes.append(f"There are only {len(prompts)} messages, which widens the interval.")
    return notes


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))
