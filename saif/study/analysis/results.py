"""What an analysis says, as plain values that become JSON as they are.

Nothing is ever NaN: what can't be computed is None, and a note beside it says why, in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from saif.study.analysis.estimates import Clusters
from saif.study.data.unblinding import Look


@dataclass(frozen=True, slots=True)
class Share:
    """A mean over participants, in [0, 1], with its 95 % interval. value: None without votes.

    design_effect: the variance over that of as many independent votes. note: why there is no
    interval, or no value.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str
    clusters: Clusters
    n_participants: int
    n_votes: int
    n_eff: float | None
    design_effect: float | None
    note: str = ""


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
class Counts:
    """Of main trials. first, second: won by the study's first and second arm. void: called off and
    issued again."""

    participants: int
    votes: int
    first: int
    second: int
    tie: int
    both_bad: int
    skip: int
    void: int


@dataclass(frozen=True, slots=True)
class OneParticipant:
    """A participant's share of votes for the first arm, ties as ½. Numbers are not ids."""

    number: int
    share: float
    votes: int


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram. second: a second bar beside the first, where there are two."""

    label: str
    n: int
    second: int | None = None


@dataclass(frozen=True, slots=True)
class BySide:
    """Votes on trials with the first arm on one side."""

    first_arm_on: Literal["left", "right"]
    first: int
    second: int
    tie: int
    both_bad: int


@dataclass(frozen=True, slots=True)
class PresetOutcome:
    """What was found for one preset. sensitivities: the same share, reckoned otherwise."""

    preset: str
    share: Share
    tests: Tests | None
    sensitivities: Mapping[str, Share]
    tie_model: TieModel | None
    icc: float | None
    counts: Counts
    alpha: float | None
    strengths: tuple[Bin, ...]
    by_side: tuple[BySide, ...]
    participants: tuple[OneParticipant, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Term:
    """One coefficient. For a preset, `odds` and `probability` are of preferring the first arm; for
    anything else `odds` is a ratio and there is no probability. p: of a coefficient of 0."""

    name: str
    log_odds: float
    error: float
    odds: float
    odds_low: float
    odds_high: float
    probability: float | None
    probability_low: float | None
    probability_high: float | None
    p: float


@dataclass(frozen=True, slots=True)
class Model:
    """A regression. about: the estimator and its limits. note: why it was not fitted; then there
    are no terms."""

    name: str
    about: str
    terms: tuple[Term, ...]
    n_votes: int
    note: str = ""


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


@dataclass(frozen=True, slots=True)
class Flow:
    """Participants from consent on. going_on: neither finished nor gone. voted: with at least one
    vote that counts, who are analysed; per_protocol: who finished and passed the checks."""

    consented: int
    going_on: int
    screened: int
    stale: int
    withdrawn: int
    erased: int
    complete: int
    missed_checks: int
    voted: int
    per_protocol: int
    planned: int


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

    index: float | None
    low: float | None
    high: float | None
    right: int
    wrong: int
    unsure: int
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

    flow: Flow
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
