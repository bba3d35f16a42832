"""Whole studies with simulated participants, without a page or a model.

They go through the same store as people do: a dry run of a study file, and a test of the analysis,
which must find the preference that was planted.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from saif.core.types import check_between
from saif.errors import StudyError
from saif.study.design.questions import Question, When
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
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
    crowd: Crowd,
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
        bot = _Bot(store, Person("bot", f"bot-{seed}-{number}"), crowd, rng)
        try:
            bot.join()
        except StudyError:
            ended["refused"] += 1
            continue
        ended["complete" if bot.take_part() else "left"] += 1
    return ended


class _Bot:
    """One simulated participant."""

    def __init__(self, store: Store, person: Person, crowd: Crowd, rng: random.Random) -> None:
        self._store = store
        self._person = person
        self._crowd = crowd
        self._rng = rng
        self._careless = rng.random() < crowd.careless
        self._rate = crowd.rate
        if crowd.icc > 0:
            spread = (1 - crowd.icc) / crowd.icc
            self._rate = rng.betavariate(crowd.rate * spread, (1 - crowd.rate) * spread)
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

    def _answer_all(self, when: When) -> None:
        for question in self._store.study.questions:
            if question.when == when:
                respond(self._store, self._token, question.id, self._answer(question))

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
        for question in self._store.study.questions:
            if question.when == "trial" and trial.kind == "main":
                value = self._answer(question)
                respond(self._store, self._token, question.id, value, trial_id=trial.trial_id)

    def _choose(self, trial: Trial) -> Choice:
        study = self._store.study
        if trial.kind == "attention" and not self._careless:
            return next(check.answer for check in study.attention if check.id == trial.check)
        if self._careless:
            return "L" if self._rng.random() < 0.5 else "R"
        ties: list[Choice] = []
        if study.preference.tie:
            ties.append("tie")
        if study.preference.both_bad:
            ties.append("both_bad")
        if ties and self._chance("ties"):
            return self._rng.choice(ties)
        first_left = trial.left == study.arms[0]
        rate = self._rate + (self._crowd.left if first_left else -self._crowd.left)
        prefers_first = self._rng.random() < rate
        return "L" if prefers_first == first_left else "R"

    def _texts(self, trial: Trial) -> list[Answer]:
        n = self._rng.randint(5, 60)
        sides: list[tuple[Literal["L", "R"], str]] = [("L", trial.left), ("R", trial.right)]
        return [
            Answer(
                arm=arm,
                side=side,
                text=f"An answer of {n} words.",
                n_tokens=n,
                stop="eos",
                ttft_ms=200.0 + n,
                total_ms=2000.0 + n,
            )
            for side, arm in sides
        ]

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
        chance: float = getattr(self._crowd, name)
        return self._rng.random() < chance
