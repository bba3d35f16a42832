"""On ZeroGPU replies are made in a process that shares nothing; played here with copies."""

import pickle
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_steering

from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Request, complete
from saif.engine.zero_gpu import ZeroGpuEngine, seconds_for

REQUESTS = [
    Request(
        messages=(Message("user", text),),
        steering=steering,
        sampling=Sampling(max_new_tokens=n),
    )
    for text, steering, n in (("Hi", tiny_steering(), 6), ("Tell me more", None, 3))
]


@pytest.fixture
def durations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A stand-in for the `spaces` package: whatever goes in or comes out is a copy. Notes for how
    long a GPU was asked for."""
    asked: list[int] = []

    def gpu(duration: Callable[..., int]) -> Callable[[Any], Any]:
        def decorate(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def call(*arguments: Any) -> Iterator[Any]:
                asked.append(duration(*arguments))
                for value in function(*pickle.loads(pickle.dumps(arguments))):
                    yield pickle.loads(pickle.dumps(value))

            return call

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    return asked


def test_replies_are_those_of_the_engine_inside(engine: LocalEngine, durations: list[int]) -> None:
    lent = ZeroGpuEngine(engine)
    assert complete(lent, REQUESTS) == complete(engine, REQUESTS)
    assert complete(lent, REQUESTS)[0].steered > 0
    assert (lent.model, lent.about) == (engine.model, engine.about)


def test_a_gpu_is_asked_for_as_long_as_the_longest_reply_may_take(
    engine: LocalEngine, durations: list[int]
) -> None:
    complete(ZeroGpuEngine(engine), REQUESTS)
    assert durations == [seconds_for(REQUESTS)] == [16]
    long = Request(messages=(), sampling=Sampling(max_new_tokens=4096))
    assert seconds_for([long]) == 120


def test_stop_ends_the_rows_that_still_run(engine: LocalEngine, durations: list[int]) -> None:
    seen: list[Any] = []
    for step in ZeroGpuEngine(engine).stream(REQUESTS, cancelled=lambda: len(seen) == 4):
        seen.append(step)
    (last,) = seen[-1]  # the second reply had ended after three tokens
    assert (last.row, last.stop) == (0, "cancelled")
    assert len(seen) == 5
