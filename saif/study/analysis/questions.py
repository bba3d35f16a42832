"""What was answered to the questions of a study, beside the vote and at the end."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saif.study.analysis.data import StudyData
from saif.study.analysis.estimates import estimate
from saif.study.analysis.observations import observations
from saif.study.analysis.results import Asked, Bin, Group
from saif.study.design.questions import ChoiceQuestion, GuessQuestion, LikertQuestion, Question
from saif.study.participation.votes import Score

EVERYONE = "everyone"


@dataclass(frozen=True, slots=True)
class _Answer:
    """value: None where it was left empty, or isn't in the data."""

    participant: str
    group: str
    value: object


def questions(data: StudyData, *, texts: bool = False) -> tuple[Asked, ...]:
    """Every question in the study's order. Those asked after each trial are told apart by the arm
    that was preferred in it. texts: quote what was typed, where the data hold it."""
    preferred = {
        one.vote.trial: _preferred(one.vote.preferred, one.vote.choice)
        for one in observations(data)
    }
    return tuple(
        _asked(question, _answers(data, question, preferred), [*data.version.study.arms], texts)
        for question in data.version.study.questions
    )


def _preferred(arm: str | None, choice: str) -> str:
    return f"preferred {arm}" if arm else "skipped" if choice == "skip" else "neither preferred"


def _answers(data: StudyData, question: Question, preferred: dict[str, str]) -> list[_Answer]:
    found = []
    for row in data.tables["responses"]:
        name, _, trial = str(row["item"]).partition("@")
        if name != question.id or (trial and trial not in preferred):
            continue
        value = None if row["value"] is None else json.loads(str(row["value"]))
        group = preferred[trial] if trial else EVERYONE
        found.append(_Answer(str(row["participant"]), group, value))
    return found


def _asked(
    question: Question, answers: Sequence[_Answer], arms: Sequence[str], texts: bool
) -> Asked:
    names = [EVERYONE]
    if question.when == "trial":
        names = [*(f"preferred {arm}" for arm in arms), "neither preferred", "skipped"]
    groups = [
        _group(question, name, [one for one in answers if one.group == name]) for name in names
    ]
    quoted = [str(one.value) for one in answers if isinstance(one.value, str) and one.value.strip()]
    return Asked(
        id=question.id,
        text=question.text,
        kind=question.kind,
        when=question.when,
        groups=tuple(group for group in groups if group.n_answers or group.name == EVERYONE),
        texts=tuple(sorted(quoted)) if texts and question.kind == "text" else (),
    )


def _group(question: Question, name: str, answers: Sequence[_Answer]) -> Group:
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


def _ratings(question: LikertQuestion, name: str, answers: Sequence[_Answer]) -> Group:
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
