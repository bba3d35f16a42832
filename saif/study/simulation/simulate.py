"""Whole studies with simulated participants, without a page or a model.

They go through the same store as people do, from consent to code: a dry run of a study file, and a
test of the analysis, which must find in the export the preference that was planted.
"""

import random
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from saif.core.types import check_between
from saif.errors import StudyError
from saif.study.analysis.analyse import analyse
from saif.study.analysis.data import from_export
from saif.study.analysis.results import Analysis
from saif.study.data.export import check_new, export
from saif.study.design.publish import Version, write_version
from saif.study.design.questions import Question, When
from saif.study.design.study_file import Study
from saif.study.participation.steps import (
    Answer,
    Ballot,
    add_exchange,
    begin,
    call_off,
    finish,
    respond,
    vote,
)
from saif.study.participation.votes import Choice
from saif.study.store.allocation import check_not_mixed
from saif.study.store.identities import Person
from saif.study.store.store import Store
from saif.study.store.trials import Trial

MOST = 10_000
"""Bots of a rehearsal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BotBehaviour:
    """What simulated participants do.

    rate: of preferring the study's first arm where they prefer one. icc: how alike one
    participant's votes are. ties: share of votes that are a tie (or both bad). left: what is added
    to the rate of an arm on the left, and taken from one on the right. dropout: share who leave for
    good somewhere on the way; those who come back are `returning`, as a share of trials. careless:
    share who choose at random, attention checks included. failing: share of trials in which an
    answer fails.
    """

    rate: float = 0.65
    icc: float = 0.15
    ties: float = 0.1
    left: float = 0.0
    dropout: float = 0.2
    returning: float = 0.05
    careless: float = 0.0
    failing: float = 0.02

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            low, high = (0.01, 0.99) if name == "rate" else (0.0, 0.95)
            check_between(name, value, low, high)


def simulate(
    store: Store,
    n: int,
    behaviour: BotBehaviour,
    *,
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> Counter[str]:
    """Let `n` simulated participants join one after the other; how many ended how.

    complete: with a code; left: dropped out; refused: the study was full or paused. The store knows
    them as bots. tell: is told how many have been through. Raises StudyError where it holds people,
    or where a step is refused: a bot does nothing out of order.
    """
    with store.database.snapshot() as db:
        check_not_mixed(db, "bot")
    rng = random.Random(seed)
    ended: Counter[str] = Counter()
    for number in range(n):
        if tell:
            tell(number)
        bot = _Bot(store, Person("bot", f"bot-{seed}-{number}"), behaviour, rng)
        try:
            bot.join()
        except StudyError:
            ended["refused"] += 1
            continue
        ended["complete" if bot.take_part() else "left"] += 1
    return ended


class _Bot:
    """One simulated participant."""

    def __init__(
        self, store: Store, person: Person, behaviour: BotBehaviour, rng: random.Random
    ) -> None:
        self._store = store
        self._person = person
        self._behaviour = behaviour
        self._rng = rng
        self._careless = rng.random() < behaviour.careless
        self._rate = behaviour.rate
        if behaviour.icc > 0:
            spread = (1 - behaviour.icc) / behaviour.icc
            self._rate = rng.betavariate(behaviour.rate * spread, (1 - behaviour.rate) * spread)
        self._token = ""

    def join(self) -> None:
        shares = self._rng.random() < 0.5
        self._token = self._store.enrol(self._person, share_text=shares).token

    def take_part(self) -> bool:
        """Whether it got to the end."""
        self._answer_all("start")
        n_trials = self._store.study.trials.main
        leaves_after = self._rng.randrange(n_trials) if self._chance("dropout") else None
        done = 0
        while (trial := begin(self._store, self._token)) is not None:
            if leaves_after is not None and done > leaves_after:
                return False
            if self._chance("returning"):  # reloads the page in the middle of a trial
                entry = self._store.enter(self._person)
                assert entry is not None, "it has consented"
                self._token = entry.token
                continue
            if trial.state == "running" and self._chance("failing"):
                call_off(self._store, self._token, trial.trial_id, "failed")
                continue
            self._judge(trial)
            done += 1
        self._answer_all("end")
        finish(self._store, self._token)
        return True

    def _answer_all(self, when: When, trial_id: str | None = None) -> None:
        for question in self._store.study.questions:
            if question.when == when:
                value = self._answer(question)
                respond(self._store, self._token, question.id, value, trial_id=trial_id)

    def _judge(self, trial: Trial) -> None:
        while trial.state == "running":
            trial = add_exchange(
                self._store, self._token, trial.trial_id, self._texts(trial), "A message."
            )
        assert trial.vote_id is not None, "it is ready"
        choice = self._choose(trial)
        labels = self._store.study.preference.strength
        strength = self._rng.randint(1, len(labels)) if labels and choice in ("L", "R") else None
        ballot = Ballot(
            vote_id=trial.vote_id,
            choice=choice,
            strength=strength,
            shown_ms=self._rng.randint(1000, 9000),
            decided_ms=self._rng.randint(500, 30_000),
        )
        vote(self._store, self._token, ballot)
        if self._chance("returning"):  # its reply was lost, so the page sends it again
            vote(self._store, self._token, ballot)
        if trial.kind == "main":
            self._answer_all("trial", trial.trial_id)

    def _choose(self, trial: Trial) -> Choice:
        study = self._store.study
        if trial.kind == "attention" and not self._careless:
            return next(check.answer for check in study.attention if check.id == trial.check)
        if self._careless:
            return "L" if self._rng.random() < 0.5 else "R"
        offered: dict[Choice, bool] = {
            "tie": study.preference.tie,
            "both_bad": study.preference.both_bad,
        }
        ties = [choice for choice, is_offered in offered.items() if is_offered]
        if ties and self._chance("ties"):
            return self._rng.choice(ties)
        first_left = trial.left == study.arms[0]
        rate = self._rate + (self._behaviour.left if first_left else -self._behaviour.left)
        prefers_first = self._rng.random() < rate
        return "L" if prefers_first == first_left else "R"

    def _texts(self, trial: Trial) -> list[Answer]:
        n = self._rng.randint(5, 60)
        left = Answer(
            arm=trial.left,
            side="L",
            text=f"An answer of {n} words.",
            n_tokens=n,
            stop="eos",
            ttft_ms=200.0 + n,
            total_ms=2000.0 + n,
        )
        return [left, replace(left, arm=trial.right, side="R")]

    def _answer(self, question: Question) -> object:
        match question.kind:
            case "choice":
                return self._rng.choice(question.accept or question.options)
            case "likert":
                return self._rng.randint(1, question.points)
            case "guess":
                return self._rng.choice(["L", "R", "unsure"])
            case "text":
                return "No remarks."

    def _chance(self, name: str) -> bool:
        chance: float = getattr(self._behaviour, name)
        return self._rng.random() < chance


@dataclass(frozen=True, slots=True)
class Recovery:
    """Whether the interval of one preset holds what was planted. None without an interval."""

    preset: str
    planted: float
    value: float | None
    low: float | None
    high: float | None

    @property
    def recovered(self) -> bool | None:
        if self.low is None or self.high is None:
            return None
        return self.low <= self.planted <= self.high

    @property
    def tells(self) -> bool:
        """Whether the interval is narrow enough to miss anything."""
        return self.low is not None and self.high is not None and self.high - self.low < 0.5


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """ended: how many bots ended how, see `simulate`."""

    ended: Counter[str]
    analysis: Analysis
    recoveries: tuple[Recovery, ...]


def rehearse(
    version: Version,
    n: int,
    behaviour: BotBehaviour,
    *,
    data: Path,
    out: Path,
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> Rehearsal:
    """Play it. data: a new folder for the store. out: a new folder for the export, from which all
    numbers come. There is a place for every bot, whatever the study's own quota.

    Raises StudyError where `data` holds something.
    """
    check_between("n", n, 1, MOST)
    check_new(data)
    study = version.study
    roomy = study.quota.model_copy(update={"complete": max(n, study.quota.complete)})
    version = version.model_copy(update={"study": study.model_copy(update={"quota": roomy})})
    # Nobody comes back after the rehearsal, so the key can be thrown away.
    write_version(data, version)  # so that other commands can open what is kept
    store = Store(data, version, secrets.token_bytes(32))
    try:
        ended = simulate(store, n, behaviour, seed=seed, tell=tell)
        export(store, out, profile="full", actor="rehearsal")
    finally:
        store.close()
    found = analyse(from_export(out))
    planted = planted_share(behaviour, study)
    return Rehearsal(
        ended=ended,
        analysis=found,
        recoveries=tuple(
            Recovery(one.preset, planted, one.share.value, one.share.low, one.share.high)
            for one in found.presets
        ),
    )


def planted_share(behaviour: BotBehaviour, study: Study) -> float:
    """What the estimand is of such bots: ties count ½, and the careless choose by chance."""
    offered = study.preference.tie or study.preference.both_bad
    ties = behaviour.ties if offered else 0.0
    careful = ties / 2 + (1 - ties) * behaviour.rate
    return behaviour.careless / 2 + (1 - behaviour.careless) * careful
