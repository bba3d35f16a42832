"""How a model answers when many people write at once: each two columns, one of them steered."""

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from saif.core.steering import Steering
from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Message, Request

SIZES = (1, 4, 16, 64)

_QUESTIONS = (
    "Write a long story about an old house by the sea.",
    "Tell me everything you know about bread.",
    "What should I see in a big city on a rainy day?",
    "Describe a long walk through a forest in the autumn.",
)


_Answer = tuple[float, float, int]
"""One person's wait for the first token and for the whole, in seconds, and both columns' tokens."""


def measure_concurrent(
    engine: LocalEngine, steering: Steering, *, sizes: Sequence[int] = SIZES, n_steps: int
) -> list[dict[str, Any]]:
    """Per size: tokens per second of all together, and what one of them waits for."""
    if not sizes:
        return []
    shared = SharedEngine(engine.language_model, cache_bytes=0)
    _ask_all(shared, steering, 1, n_steps)  # warm-up
    return [_ask_all(shared, steering, size, n_steps) for size in sizes]


def _ask_all(shared: SharedEngine, steering: Steering, size: int, n_steps: int) -> dict[str, Any]:
    together = threading.Barrier(size)

    def ask(number: int) -> _Answer:
        message = Message("user", f"{_QUESTIONS[number % len(_QUESTIONS)]} ({number})")
        sampling = Sampling(max_new_tokens=n_steps, seed=number)
        requests = [
            Request(messages=(message,), steering=each, sampling=sampling)
            for each in (None, steering)
        ]
        together.wait()
        started = time.perf_counter()
        first, tokens = 0.0, 0
        for step in shared.stream(requests):
            first = first or time.perf_counter() - started
            tokens += sum(row.token_id is not None for row in step)
        return first, time.perf_counter() - started, tokens

    started = time.perf_counter()
    with ThreadPoolExecutor(size) as people:
        answers = list(people.map(ask, range(size)))
    seconds = time.perf_counter() - started
    firsts, wholes, tokens = zip(*answers, strict=True)
    return {
        "people": size,
        "tokens_per_second": sum(tokens) / seconds,
        "median_first_token_seconds": statistics.median(firsts),
        "last_first_token_seconds": max(firsts),
        "median_answer_seconds": statistics.median(wholes),
        "last_answer_seconds": max(wholes),
    }
