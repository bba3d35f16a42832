"""A study, analysed: everything that is planned to be reported, in one value.

For each preset the estimand, its tests, and the same reckoned otherwise; the regressions; what was
answered to the questions; the quality of the data; and all of it in sentences.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from saif.study.analysis.data import Response, StudyData
from saif.study.analysis.estimates import (
    best_estimate,
    estimate,
    holm,
    icc,
    krippendorffs_alpha,
    participant_means,
    ratings_of,
    sign_flip_p,
    tost,
)
from saif.study.analysis.quality import quality, share
from saif.study.analysis.regression import models
from saif.study.analysis.results import (
    Analysis,
    Asked,
    Bin,
    BySide,
    Counts,
    Group,
    OneParticipant,
    PresetOutcome,
    Share,
    Tests,
    TieModel,
)
from saif.study.analysis.wording import limits, summary
from saif.study.data.unblinding import too_early
from saif.study.design.questions import ChoiceQuestion, GuessQuestion, LikertQuestion, Question
from saif.study.design.study_file import Study
from saif.study.participation.votes import Score, Vote, preference_scores

MARGIN = 0.05
"""Of the test of equivalence: within five points of ½ is no preference worth the name."""

_RESAMPLES = 2000
_EVERYONE = "everyone"


def analyse(data: StudyData, *, looked: bool = False, texts: bool = False) -> Analysis:
    """All of it. looked: somebody wrote down why they look early (`saif.study.data.unblinding`).
    texts: quote free answers, where the data hold them.

    Raises StudyError where the outcome of a running study is not to be shown yet;
    `saif.study.analysis.quality` says what may be. Raises InputError where a vote is there twice.
    """
    study = data.version.study
    if data.hidden and not looked:
        raise too_early(study, data.flow["complete"])
    found = quality(data)
    presets = outcomes(data)
    return Analysis(
        study=study.id,
        title=study.title,
        version=data.version.id,
        model=study.model,
        arms=(study.arms[0], study.arms[1]),
        made_up=data.made_up,
        looks=data.looks,
        presets=presets,
        models=models(data),
        questions=questions(data, texts=texts),
        quality=found,
        summary=tuple(summary(presets, study)),
        limits=tuple(limits(presets, found, data)),
    )


def as_json(found: object) -> str:
    """An analysis, or a part of it, as a JSON document."""
    document: dict[str, Any] = asdict(found)  # type: ignore[call-overload]
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def outcomes(data: StudyData) -> tuple[PresetOutcome, ...]:
    """One for each preset of the study, in its order."""
    study = data.version.study
    everyone: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in data.votes["main"]:
        everyone[vote.preset].append(vote)
    labels = list(dict.fromkeys([*(use.label for use in study.presets), *everyone]))
    found = [_outcome(data, label, everyone[label]) for label in labels]
    p_values = {one.preset: one.tests.headline for one in found if one.tests}
    adjusted = holm(p_values)
    return tuple(
        replace(one, tests=replace(one.tests, holm=adjusted[one.preset])) if one.tests else one
        for one in found
    )


def _outcome(data: StudyData, preset: str, votes: Sequence[Vote]) -> PresetOutcome:
    study = data.version.study
    first = study.arms[0]
    attentive = [v for v in votes if v.participant in data.members.of["per-protocol"]]
    scores = preference_scores(votes, first)
    headline = share(scores)
    sensitivities = {
        "ties dropped": share(preference_scores(votes, first, ties="drop")),
        "per protocol": share(preference_scores(attentive, first)),
    }
    if headline.clusters != "participants":
        sensitivities["participants alone as clusters"] = share(scores, prompts=False)
    tests = _tests(scores) if headline.low is not None else None
    return PresetOutcome(
        preset=preset,
        share=headline,
        tests=tests,
        sensitivities=sensitivities,
        tie_model=_tie_model(votes, first),
        icc=icc(scores) if scores else None,
        counts=_counts(data, preset, votes, first),
        alpha=krippendorffs_alpha(ratings_of(votes)) if data.answers_are_shared else None,
        strengths=_clarity(study, votes, first),
        by_side=tuple(_by_side(votes, first, side) for side in ("left", "right")),
        participants=_participants(scores),
        notes=tuple(_notes(votes, headline, tests)),
    )


def _tests(scores: Sequence[Score]) -> Tests:
    found = best_estimate(scores)
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


def _tie_model(votes: Sequence[Vote], first: str) -> TieModel | None:
    """Davidson's extension of the Bradley–Terry model (J. American Statistical Association 65
    (1970) 317), which two arms fill completely: the log strengths differ by the log of the ratio of
    wins, and ν is the ties over the root of the wins' product. Participants are resampled for the
    interval. None below two participants, or where no vote is for an arm."""
    import numpy as np
    from scipy.stats import norm

    of: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for vote in votes:
        if vote.choice != "skip":
            of[vote.participant][2 if vote.preferred is None else int(vote.preferred != first)] += 1
    if len(of) < 2 or not any(won or lost for won, lost, _ in of.values()):
        return None

    def log_ratio(counts: Any) -> Any:
        wins = counts[..., :2].astype(float)
        wins = wins + 0.5 * (wins == 0).any(axis=-1, keepdims=True)  # or it would be infinite
        return np.log(wins[..., 0] / wins[..., 1])

    # Participants with the same counts are drawn together, so that no id changes a digit.
    kinds, people = np.unique(list(of.values()), axis=0, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(of), people / len(of), _RESAMPLES) @ kinds
    first_wins, second_wins, ties = map(float, people @ kinds)
    padded = not (first_wins and second_wins)
    value, draws = float(log_ratio(people @ kinds)), log_ratio(drawn)
    error = float(draws.std(ddof=1))
    half = float(np.quantile(np.abs(draws - draws.mean()), 0.95))
    sure = error >= 1e-9
    return TieModel(
        share=_expit(value),
        low=_expit(value - half) if sure else None,
        high=_expit(value + half) if sure else None,
        tie=ties / math.sqrt((first_wins + 0.5 * padded) * (second_wins + 0.5 * padded)),
        p=2 * float(norm.sf(abs(value) / error)) if sure else None,
        half_wins=padded,
    )


def _counts(data: StudyData, preset: str, votes: Sequence[Vote], first: str) -> Counts:
    choices = Counter(
        vote.choice if vote.preferred is None else "first" if vote.preferred == first else "second"
        for vote in votes
    )
    return Counts(
        participants=len({vote.participant for vote in votes}),
        votes=len(votes),
        first=choices["first"],
        second=choices["second"],
        tie=choices["tie"],
        both_bad=choices["both_bad"],
        skip=choices["skip"],
        void=sum(label == preset for label, _ in data.voids),
    )


def _clarity(study: Study, votes: Sequence[Vote], first: str) -> tuple[Bin, ...]:
    """How clear the preference was, for the first arm and for the second."""
    counts = Counter((vote.clarity, vote.preferred == first) for vote in votes)
    return tuple(
        Bin(label, counts[level, True], counts[level, False])
        for level, label in enumerate(study.preference.strength, 1)
    )


def _by_side(votes: Sequence[Vote], first: str, side: Literal["left", "right"]) -> BySide:
    here = [vote for vote in votes if (vote.left == first) == (side == "left")]
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


def _notes(votes: Sequence[Vote], found: Share, tests: Tests | None) -> list[str]:
    notes = []
    decided = {vote.preferred for vote in votes if vote.choice != "skip"}
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
    prompts = {vote.prompt for vote in votes}
    if len(prompts) == 1 and None not in prompts:
        notes.append("All votes are on one message, so nothing is known of other messages.")
    elif found.clusters != "participants" and len(prompts) < 10:
        notes.append(f"There are only {len(prompts)} messages, which widens the interval.")
    return notes


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def questions(data: StudyData, *, texts: bool = False) -> tuple[Asked, ...]:
    """Every question in the study's order. Those asked after each trial are told apart by the arm
    that was preferred in it. texts: quote what was typed, where the data hold it."""
    group_of = {vote.trial: _preferred(vote) for vote in data.votes["main"]}
    answers: defaultdict[str, defaultdict[str, list[Response]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for one in data.responses:
        if not one.trial or one.trial in group_of:
            group = group_of[one.trial] if one.trial else _EVERYONE
            answers[one.question][group].append(one)
    study = data.version.study
    return tuple(
        _asked(question, answers[question.id], study.arms, texts) for question in study.questions
    )


def _preferred(vote: Vote) -> str:
    if vote.preferred:
        return f"preferred {vote.preferred}"
    return "skipped" if vote.choice == "skip" else "neither preferred"


def _asked(
    question: Question,
    answers: Mapping[str, Sequence[Response]],
    arms: Sequence[str],
    texts: bool,
) -> Asked:
    """answers: group -> its answers to this question."""
    names = [_EVERYONE]
    if question.when == "trial":
        names = [*(f"preferred {arm}" for arm in arms), "neither preferred", "skipped"]
    groups = [_group(question, name, answers.get(name, ())) for name in names]
    quoted = [
        one.value
        for group in answers.values()
        for one in group
        if isinstance(one.value, str) and one.value.strip()
    ]
    return Asked(
        id=question.id,
        text=question.text,
        kind=question.kind,
        when=question.when,
        groups=tuple(group for group in groups if group.n_answers or group.name == _EVERYONE),
        texts=tuple(sorted(quoted)) if texts and question.kind == "text" else (),
    )


def _group(question: Question, name: str, answers: Sequence[Response]) -> Group:
    if isinstance(question, LikertQuestion):
        return _ratings(question, name, answers)
    people = len({one.participant for one in answers})
    if isinstance(question, ChoiceQuestion | GuessQuestion):
        offered = question.options if isinstance(question, ChoiceQuestion) else ["L", "R", "unsure"]
        given = [one for one in answers if one.value is not None]
        counts = Counter(str(one.value) for one in given)
        people = len({one.participant for one in given})
        bins = tuple(Bin(option, counts[option]) for option in offered)
        return Group(name, len(given), people, options=bins)
    return Group(name, len(answers), people)


def _ratings(question: LikertQuestion, name: str, answers: Sequence[Response]) -> Group:
    """The mean over participants of each one's mean, and how often each rating was given."""
    given = [(one.participant, one.value) for one in answers if isinstance(one.value, int)]
    counts = Counter(value for _, value in given)
    bins = tuple(Bin(str(level), counts[level]) for level in range(1, question.points + 1))
    people = len({who for who, _ in given})
    if not given:
        return Group(name, 0, 0, options=bins)
    top = question.points - 1
    found = estimate([Score(who, None, (value - 1) / top) for who, value in given])
    low, high = found.t_interval() if people > 1 else (None, None)
    return Group(
        name=name,
        n_answers=len(given),
        n_participants=people,
        mean=1 + top * found.value,
        low=None if low is None else 1 + top * low,
        high=None if high is None else 1 + top * high,
        options=bins,
    )
