"""What an analysis says, as plain values that become JSON as they are.

Nothing is ever NaN: what can't be computed is None, and a note beside it says why, in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from saif.study.analysis.estimates import Share
from saif.study.analysis.quality import Bin, Quality
from saif.study.analysis.regression import Model
from saif.study.data.unblinding import Look


@dataclass(frozen=True, slots=True)
class Tests:
    """Of no preference: a share of ½. t, df, p: the t test. sign_flip: p of the permutation test.
    holm: the p of the t test (of the permutation test where there is none), adjusted for the
    number of presets. not_lower, not_higher, equivalent: p values of the tests against ½ ± margin.
    """

    t: float | None
    df: int | None
    p: float | None
    sign_flip: float
    holm: float
    margin: float
    not_lower: float | None
    not_higher: float | None
    equivalent: float | None

    @property
    def headline(self) -> float:
        """The p value before it is adjusted."""
        return self.sign_flip if self.p is None else self.p


@dataclass(frozen=True, slots=True)
class TieModel:
    """Davidson's model. share: how often the first arm wins, if somebody wins; low, high: its 95 %
    interval. tie: ν, 0 without ties. p: of a share of ½. half_wins: ½ wins were added."""

    share: float
    low: float | None
    high: float | None
    tie: float
    p: float | None
    half_wins: bool


@dataclass(frozen=True, slots=True)
class OneParticipant:
    """A participant's share of votes for the first arm, ties as ½. Numbers are not ids."""

    number: int
    share: float
    votes: int


@dataclass(frozen=True, slots=True)
class BySide:
    """Votes on trials with the first arm on one side."""

    first_arm_on: Literal["left", "right"]
    first: int
    second: int
    tie: int
    both_bad: int

    @property
    def n(self) -> int:
        return self.first + self.second + self.tie + self.both_bad


@dataclass(frozen=True, slots=True)
class PresetOutcome:
    """What was found for one preset. sensitivities: the same share, reckoned otherwise."""

    preset: str
    share: Share
    tests: Tests | None
    sensitivities: Mapping[str, Share]
    tie_model: TieModel | None
    icc: float | None
    counts: Mapping[str, int]
    """Of main trials. first, second: won by the study's first and second arm. void: called off and
    issued again."""
    alpha: float | None
    strengths: tuple[Bin, ...]
    by_side: tuple[BySide, ...]
    participants: tuple[OneParticipant, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Answers of those who, in that trial, preferred one arm; or of all, at the end.

    mean, low, high: of a rating, over participants' means. options: how often each was chosen.
    """

    name: str
    n_answers: int
    n_participants: int
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    options: tuple[Bin, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """One question and what was answered. texts: only if they were asked for."""

    id: str
    text: str
    kind: str
    when: str
    groups: tuple[Group, ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """A whole analysis. arms: the first is the one whose share is estimated. looks: the outcome
    was seen before the planned number of participants was complete. made_up: by bots."""

    schema_version: Literal[1] = 1
    study: str
    title: str
    version: str
    model: str
    arms: tuple[str, str]
    made_up: bool
    looks: tuple[Look, ...]
    presets: tuple[PresetOutcome, ...]
    models: tuple[Model, ...]
    questions: tuple[Asked, ...]
    quality: Quality
    summary: tuple[str, ...]
    limits: tuple[str, ...]
