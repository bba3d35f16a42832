"""A study, analysed: everything that is planned to be reported, in one value.

For each preset the estimand, its tests, and the same reckoned otherwise; the regressions; what was
answered to the questions; the quality of the data; and all of it in sentences.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from saif.study.analysis import estimates
from saif.study.analysis.data import Response, StudyData
from saif.study.analysis.estimates import Share, share
from saif.study.analysis.quality import Bin, quality
from saif.study.analysis.regression import models
from saif.study.analysis.results import (
    Analysis,
    Asked,
    BySide,
    Group,
    OneParticipant,
    PresetOutcome,
    Tests,
    TieModel,
)
from saif.study.analysis.wording import limits, summary
from saif.study.data.unblinding import too_early
from saif.study.design.questions import Question
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
    from statsmodels.stats.multitest import multipletests

    study = data.version.study
    everyone: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in data.votes["main"]:
        everyone[vote.preset].append(vote)
    labels = list(dict.fromkeys([*(use.label for use in study.presets), *everyone]))
    found = [_outcome(data, label, everyone[label]) for label in labels]
    tested = {one.preset: one.tests for one in found if one.tests}
    if tested:  # Holm, Scandinavian J. of Statistics 6 (1979) 65
        p_values = [tests.headline for tests in tested.values()]
        adjusted = multipletests(p_values, method="holm")[1]
        for (preset, tests), p in zip(tested.items(), adjusted, strict=True):
            tested[preset] = replace(tests, holm=float(p))
    return tuple(replace(one, tests=tested.get(one.preset)) for one in found)


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
    frozen = data.answers_are_shared
    clarity = Counter((vote.clarity, vote.preferred == first) for vote in votes)
    n_votes = Counter(score.participant for score in scores)
    return PresetOutcome(
        preset=preset,
        share=headline,
        tests=tests,
        sensitivities=sensitivities,
        tie_model=_tie_model(votes, first),
        icc=estimates.icc(scores) if scores else None,
        counts={
            "participants": len({vote.participant for vote in votes}),
            "votes": len(votes),
            **_counts(votes, first),
            "skip": sum(vote.choice == "skip" for vote in votes),
            "void": sum(label == preset for label, _ in data.voids),
        },
        alpha=estimates.krippendorffs_alpha(estimates.ratings_of(votes)) if frozen else None,
        strengths=tuple(
            Bin(label, clarity[level, True], clarity[level, False])
            for level, label in enumerate(study.preference.strength, 1)
        ),
        by_side=(
            BySide("left", **_counts([vote for vote in votes if vote.left == first], first)),
            BySide("right", **_counts([vote for vote in votes if vote.left != first], first)),
        ),
        participants=tuple(
            OneParticipant(int(name), mean, n_votes[name])
            for name, mean in (estimates.participant_means(scores) if scores else {}).items()
        ),
        notes=tuple(_notes(votes, headline, tests)),
    )


def _tests(scores: Sequence[Score]) -> Tests:
    found = estimates.best_estimate(scores)
    t, p = found.t_test() or (None, None)
    _, not_lower = found.t_test(0.5 - MARGIN, "greater") or (None, None)
    _, not_higher = found.t_test(0.5 + MARGIN, "less") or (None, None)
    return Tests(
        t=t,
        df=None if t is None else found.df,
        p=p,
        sign_flip=estimates.sign_flip_p(scores),
        holm=1.0,  # adjusted once all presets are there
        margin=MARGIN,
        not_lower=not_lower,
        not_higher=not_higher,
        # Schuirmann's two one-sided tests (1987)
        equivalent=None if not_lower is None or not_higher is None else max(not_lower, not_higher),
    )


def _tie_model(votes: Sequence[Vote], first: str) -> TieModel | None:
    """Davidson's extension of the Bradley–Terry model (J. American Statistical Association 65
    (1970) 317), which two arms fill completely: the log strengths differ by the log of the ratio of
    wins, and ν is the ties over the root of the wins' product. Participants are resampled for the
    interval. None below two participants, or where no vote is for an arm."""
    import numpy as np
    from scipy.special import expit
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
        share=float(expit(value)),
        low=float(expit(value - half)) if sure else None,
        high=float(expit(value + half)) if sure else None,
        tie=ties / math.sqrt((first_wins + 0.5 * padded) * (second_wins + 0.5 * padded)),
        p=2 * float(norm.sf(abs(value) / error)) if sure else None,
        half_wins=padded,
    )


def _counts(votes: Sequence[Vote], first: str) -> dict[str, int]:
    counts = Counter(
        vote.choice if vote.preferred is None else "first" if vote.preferred == first else "second"
        for vote in votes
    )
    return {name: counts[name] for name in ("first", "second", "tie", "both_bad")}


def _notes(votes: Sequence[Vote], found: Share, tests: Tests | None) -> Iterator[str]:
    decided = {vote.preferred for vote in votes if vote.choice != "skip"}
    if found.note:
        yield found.note
    if decided == {None}:
        yield "Every vote is a tie, so there is nothing to test."
    elif len(decided) == 1 and found.value in (0.0, 1.0):
        yield "Every vote is for the same arm."
    if tests and tests.p is None:
        yield (
            "Participants do not differ at all, so there is no t test; the permutation test stands "
            "in for it."
        )
    prompts = {vote.prompt for vote in votes}
    if len(prompts) == 1 and None not in prompts:
        yield "All votes are on one message, so nothing is known of other messages."
    elif found.clusters != "participants" and len(prompts) < 10:
        yield f"There are only {len(prompts)} messages, which widens the interval."


def questions(data: StudyData, *, texts: bool = False) -> tuple[Asked, ...]:
    """Every question in the study's order. Those asked after each trial are told apart by the arm
    that was preferred in it. texts: quote what was typed, where the data hold it."""
    group_of = {vote.trial: _preferred(vote) for vote in data.votes["main"]} | {"": _EVERYONE}
    answers: defaultdict[tuple[str, str], list[Response]] = defaultdict(list)
    for one in data.responses:
        if one.trial in group_of:
            answers[one.question, group_of[one.trial]].append(one)
    study = data.version.study
    after_a_trial = [*(f"preferred {arm}" for arm in study.arms), "neither preferred", "skipped"]
    found = []
    for question in study.questions:
        names = after_a_trial if question.when == "trial" else [_EVERYONE]
        groups = [_group(question, name, answers[question.id, name]) for name in names]
        values = [one.value for name in names for one in answers[question.id, name]]
        found.append(
            Asked(
                id=question.id,
                text=question.text,
                kind=question.kind,
                when=question.when,
                groups=tuple(one for one in groups if one.n_answers or one.name == _EVERYONE),
                texts=tuple(sorted(one for one in values if isinstance(one, str) and one.strip()))
                if texts and question.kind == "text"
                else (),
            )
        )
    return tuple(found)


def _preferred(vote: Vote) -> str:
    if vote.preferred:
        return f"preferred {vote.preferred}"
    return "skipped" if vote.choice == "skip" else "neither preferred"


def _group(question: Question, name: str, answers: Sequence[Response]) -> Group:
    """How often each answer was given. Of ratings also the mean over participants of each one's."""
    if question.kind != "text":
        given = int if question.kind == "likert" else str
        answers = [one for one in answers if isinstance(one.value, given)]
    people = len({one.participant for one in answers})
    match question.kind:
        case "text":
            offered: Sequence[str] = ()
        case "choice":
            offered = question.options
        case "guess":
            offered = ("L", "R", "unsure")
        case "likert":
            offered = [str(level) for level in range(1, question.points + 1)]
    counts = Counter(str(one.value) for one in answers)
    group = Group(
        name, len(answers), people, options=tuple(Bin(one, counts[one]) for one in offered)
    )
    if question.kind != "likert" or not answers:
        return group
    top = question.points - 1
    found = estimates.estimate(
        [Score(one.participant, None, (int(str(one.value)) - 1) / top) for one in answers]
    )
    low, high = found.t_interval() if people > 1 else (None, None)
    return replace(
        group,
        mean=1 + top * found.value,
        low=None if low is None else 1 + top * low,
        high=None if high is None else 1 + top * high,
    )
