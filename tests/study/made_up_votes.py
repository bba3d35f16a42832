"""Votes of made-up participants, with a planted preference."""

import numpy as np

from saif.study.participation.votes import Choice, Vote

ARMS = ("steered", "unsteered")


def vote(
    trial: str,
    participant: str = "p0",
    choice: Choice = "L",
    *,
    left: str = "steered",
    right: str = "unsteered",
    prompt: str | None = None,
) -> Vote:
    return Vote(
        trial=trial, participant=participant, prompt=prompt, left=left, right=right, choice=choice
    )


def planted(
    seed: int, participants: int, votes: int, rate: float, icc: float = 0.0, ties: float = 0.0
) -> list[Vote]:
    """Participants with their own beta-distributed rates of preferring the steered arm."""
    rng = np.random.default_rng(seed)
    made = []
    for person in range(participants):
        own = rate
        if icc > 0:
            spread = (1 - icc) / icc
            own = rng.beta(rate * spread, (1 - rate) * spread)
        for place in range(votes):
            left, right = ARMS if rng.random() < 0.5 else ARMS[::-1]
            preferred = "steered" if rng.random() < own else "unsteered"
            choice: Choice = "L" if left == preferred else "R"
            if rng.random() < ties:
                choice = "tie" if rng.random() < 0.7 else "both_bad"
            made.append(
                vote(
                    f"t{person}-{place}",
                    f"p{person}",
                    choice,
                    left=left,
                    right=right,
                    prompt=f"q{place}",
                )
            )
    return made
