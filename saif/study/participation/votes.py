"""Votes on two answers side by side, and what a vote counts for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from saif.errors import InputError

Choice = Literal["L", "R", "tie", "both_bad", "skip"]
"""The left or the right answer; neither is better; neither is any good; no answer given."""

TieRule = Literal["half", "drop"]
"""What a tie counts for: half a win (the primary analysis), or nothing (sensitivity)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One valid vote, and what may have moved it."""

    trial: str
    participant: str
    prompt: str | None
    """Id of a fixed prompt, the first where a trial has several; None in free chat."""
    left: str
    """The arm whose answer was shown on the left."""
    right: str
    choice: Choice
    preset: str = ""
    position: int = 0
    """Place of the trial in the participant's plan, from 1."""
    clarity: int | None = None
    """How clear the preference was, 1 is the weakest; None where that was not asked."""
    decided_ms: int | None = None
    tokens_left: int | None = None
    """Length of the answer on the left; None where it was not counted."""
    tokens_right: int | None = None

    @property
    def preferred(self) -> str | None:
        """The arm that was chosen; None where none was."""
        return self.left if self.choice == "L" else self.right if self.choice == "R" else None

    @property
    def answer(self) -> str:
        """The arm that was chosen, or else the choice: what should stay when the sides are
        swapped."""
        return self.preferred or self.choice


@dataclass(frozen=True, slots=True)
class Score:
    """What one vote says on the question at hand: 1 yes, 0 no, ½ neither."""

    participant: str
    prompt: str | None
    value: float


def check_votes(votes: Sequence[Vote]) -> None:
    """Raises InputError where two votes are on the same trial: an export that was pasted twice
    would halve the width of every interval."""
    counts = Counter(vote.trial for vote in votes)
    twice = next((trial for trial, n in counts.items() if n > 1), None)
    if twice is not None:
        raise InputError(
            f"Trial '{twice}' has more than one vote.",
            hint="Keep the last revision of each vote, and every row once.",
        )


def preference_scores(votes: Sequence[Vote], arm: str, *, ties: TieRule = "half") -> list[Score]:
    """Did the vote prefer `arm`? Votes on trials without this arm, and skips, are left out.

    A both-bad vote is a tie as far as preference goes. Raises InputError on duplicated trials.
    """
    check_votes(votes)
    shown = [vote for vote in votes if arm in (vote.left, vote.right)]
    return _scores([(vote, vote.preferred == arm) for vote in shown], ties)


def left_scores(votes: Sequence[Vote], *, ties: TieRule = "half") -> list[Score]:
    """Was the left answer preferred? Its mean is ½ unless the position matters."""
    check_votes(votes)
    return _scores([(vote, vote.choice == "L") for vote in votes], ties)


def _scores(answers: Sequence[tuple[Vote, bool]], ties: TieRule) -> list[Score]:
    kept = [
        (vote, float(yes) if vote.preferred is not None else 0.5)
        for vote, yes in answers
        if vote.choice != "skip" and (ties == "half" or vote.preferred is not None)
    ]
    return [Score(vote.participant, vote.prompt, value) for vote, value in kept]
