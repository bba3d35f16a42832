"""What is special about replies made in a lent process; the rest is in `contract/test_engines`."""

from typing import Any

import pytest
from lent_gpu import lend_gpus
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
    return lend_gpus(monkeypatch)


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
