"""What a nosy participant could learn from the wire without reading the answers."""

import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from running_study import Visitor
from scipy.optimize import minimize

FOLDS = 5


@dataclass(frozen=True)
class Seen:
    """One trial as it came over the wire: numbers, and whether the first arm was on the left."""

    numbers: tuple[float, ...]
    first_left: bool


def watch(visitor: Visitor) -> tuple[str, tuple[float, ...]]:
    """Begin the trial that is due, read its answers and vote; its id, and all but the answers'
    text. Nothing of a check, which has no answers, or of a trial that failed and comes again."""
    began = time.perf_counter()
    begun = visitor.send("begin")
    trial = begun.json()["trial"]
    if "check" in trial:
        visitor.ask("vote", vote_id=trial["vote_id"], choice="L")
        return trial["id"], ()
    headers = {"Authorization": f"Bearer {visitor.token}"}
    body = {"trial": trial["id"], "k": 0}
    asked = time.perf_counter()
    times, shapes = [], []
    with visitor.client.stream("POST", "/turn", json=body, headers=headers) as reply:
        for line in reply.iter_lines():
            times.append(time.perf_counter() - asked)
            found = json.loads(line)
            shapes.append(list(found))
            visitor.heard.append(line.encode())
        answered = dict(reply.headers)
    if "failed" in found:
        return trial["id"], ()
    gaps = np.diff([0.0, *times])
    numbers = (
        asked - began, len(begun.content), len(times), times[0], times[-1],
        float(np.max(gaps)), float(np.std(gaps)),
        *_bytes(json.dumps(shapes)), *_bytes(json.dumps(list(trial))),
        *_bytes(json.dumps(sorted(answered.items() - {("date", answered.get("date", ""))}))),
        *_bytes(trial["id"]), *_bytes(str(found.get("vote_id"))),
    )  # fmt: skip
    visitor.ask("vote", vote_id=found["vote_id"], choice="L")
    return trial["id"], numbers


def _bytes(text: str) -> list[float]:
    """Sixteen numbers that any difference in the text would show in."""
    return [byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:16]]


def accuracy(seen: Sequence[Seen], seed: int = 0) -> float:
    """How often a logistic regression names the side right, on trials that it was not fitted to."""
    order = list(seen)
    random.Random(seed).shuffle(order)
    x = np.array([one.numbers for one in order])
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    x = np.hstack([x, np.ones((len(x), 1))])
    y = np.array([1.0 if one.first_left else -1.0 for one in order])
    fold = np.arange(len(y)) % FOLDS
    right = 0
    for held_out in range(FOLDS):
        weights = _fit(x[fold != held_out], y[fold != held_out])
        right += int(((x[fold == held_out] @ weights) * y[fold == held_out] > 0).sum())
    return right / len(y)


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = y * (x @ w)
        wrong = 1 / (1 + np.exp(np.clip(margin, -50, 50)))
        value = float(np.logaddexp(0, -margin).sum() + 0.5 * w @ w)
        return value, -(x * (y * wrong)[:, None]).sum(0) + w

    found: NDArray[np.float64] = minimize(loss, np.zeros(x.shape[1]), jac=True).x
    return found
