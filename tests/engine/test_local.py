"""What is special about the engine in this process; the rest is in `contract/test_engines`."""

import threading
import time

import pytest
from tiny import tiny_model

from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Message, Reply, ReplyBuilder, Request, complete
from saif.errors import InputError

REQUEST = Request(messages=(Message("user", "Hi"),), sampling=Sampling(max_new_tokens=6))


def test_a_conversation_too_long_is_refused_when_it_is_asked_for(engine: LocalEngine) -> None:
    """Before anybody waits for a step."""
    with pytest.raises(InputError, match="too long for this model"):
        engine.stream([Request(messages=(Message("user", "x" * 2000),))])


def test_a_reply_that_was_broken_off_counts_as_cancelled() -> None:
    builder = ReplyBuilder()
    builder.add("Hel", 65, 1, None)
    assert builder.reply() == Reply("Hel", (65,), 1, "cancelled")


def test_the_engine_says_how_the_model_runs(engine: LocalEngine) -> None:
    engine.language_model.quantize = "4bit"
    engine.language_model.is_chat = False
    assert engine.about == "base model, 4bit, 0.0 GB on cpu"


# Work in the background


@pytest.mark.parametrize("fast_decoder", [False, True])
def test_every_pass_of_background_work_is_announced(fast_decoder: bool) -> None:
    model, passes = tiny_model(), list[int]()
    if fast_decoder:
        model.use_fast_decoder()
    engine = SharedEngine(model)
    background = engine.background(lambda: passes.append(1))
    replies = complete(background, [REQUEST])
    assert len(passes) == len(replies[0].token_ids)
    passes.clear()
    background.language_model.residuals([[1, 2, 3]], [0])
    background.language_model.log_probabilities([([1, 2], [3])])
    assert len(passes) == 3  # a prompt is run before its continuations
    assert engine.prefix_cache is not None
    assert (engine.prefix_cache.bytes, background.prefix_cache) == (0, None)
    passes.clear()
    assert complete(engine, [REQUEST]) == replies  # nobody's else is
    engine.language_model.residuals([[1, 2, 3]], [0])
    assert passes == []


@pytest.mark.parametrize("kind", [LocalEngine, SharedEngine])
def test_an_engine_is_idle_when_no_request_is_in_flight(kind: type[LocalEngine]) -> None:
    engine = kind(tiny_model())
    assert engine.wait_until_idle(0)
    first, second = engine.stream([REQUEST]), engine.stream([REQUEST])
    next(first)
    next(second)
    assert not engine.wait_until_idle(0.01)
    assert list(first)
    assert not engine.wait_until_idle(0)
    waiting = threading.Timer(0.2, second.close)  # type: ignore[attr-defined]
    started = time.monotonic()
    waiting.start()
    assert engine.wait_until_idle(20)
    assert 0.15 < time.monotonic() - started < 10  # woken, not timed out
    engine.language_model.end_ids = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        list(engine.stream([REQUEST]))
    assert engine.wait_until_idle(0)  # a failed one is over too


def test_background_work_counts_for_nobody() -> None:
    engine = SharedEngine(tiny_model())
    steps = engine.background(lambda: None).stream([REQUEST])
    next(steps)
    assert engine.wait_until_idle(0)
    assert list(steps)


def test_what_is_raised_before_a_pass_ends_the_work_and_leaves_the_model_free() -> None:
    class EndedError(Exception):
        pass

    def end() -> None:
        raise EndedError

    engine = SharedEngine(tiny_model())
    background = engine.background(end)
    with pytest.raises(EndedError):
        complete(background, [REQUEST])
    with pytest.raises(EndedError):
        background.language_model.residuals([[1, 2]], [0])
    assert len(complete(engine, [REQUEST])) == 1
