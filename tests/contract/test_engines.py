"""What every engine promises: the replies that each request would have got alone, and refusals in
words. In this process inline, with a prefix cache and scheduled, and lent as on ZeroGPU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from lent_gpu import lend_gpus
from tiny import tiny_steering

from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Engine, Message, Reply, Request, complete
from saif.engine.zero_gpu import ZeroGpuEngine
from saif.errors import InputError, ModelError
from saif.runtime.language_model import LanguageModel

SHORT = Sampling(max_new_tokens=6)

ENGINES: dict[str, Callable[[LanguageModel], Engine]] = {
    "inline": LocalEngine,
    "cached": lambda model: LocalEngine(model, cache_bytes=1 << 24),
    "scheduled": SharedEngine,
    "lent": lambda model: ZeroGpuEngine(LocalEngine(model)),
}


@pytest.fixture(params=ENGINES)
def engine(
    request: pytest.FixtureRequest, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    lend_gpus(monkeypatch)
    return ENGINES[request.param](model)


def ask(text: str, **options: Any) -> Request:
    return Request(messages=(Message("user", text),), **{"sampling": SHORT, **options})


def room(model: LanguageModel) -> int:
    """How many characters of a message fit beside a short reply."""
    header = len(model.render([{"role": "user", "content": ""}]))
    return model.context_length - SHORT.max_new_tokens - header


def alone(model: LanguageModel, requests: list[Request]) -> list[Reply]:
    return [complete(LocalEngine(model), [request])[0] for request in requests]


# Replies


def test_replies_come_in_the_order_of_the_requests(engine: Engine, model: LanguageModel) -> None:
    long = Sampling(max_new_tokens=9, temperature=0.8, seed=3)
    requests = [ask("Hi"), ask("Tell me more", steering=tiny_steering(), sampling=long), ask("So?")]
    replies = complete(engine, requests)
    assert replies == alone(model, requests)
    assert [len(reply.token_ids) for reply in replies] == [6, 9, 6]
    assert [reply.steered for reply in replies] == [0, 9, 0]


def test_a_reply_is_what_its_steps_add_up_to(engine: Engine) -> None:
    request = ask("Hi", steering=tiny_steering())
    steps = [row for step in engine.stream([request]) for row in step]
    assert complete(engine, [request]) == [
        Reply(
            text="".join(step.text for step in steps),
            token_ids=tuple(step.token_id for step in steps if step.token_id is not None),
            steered=sum(step.steered for step in steps),
            stop=steps[-1].stop or "cancelled",
        )
    ]
    assert [step.stop for step in steps] == [None] * 5 + ["length"]


def test_no_reply_depends_on_what_was_asked_before(engine: Engine) -> None:
    first = complete(engine, [ask("Hi")])
    complete(engine, [ask("Something else", steering=tiny_steering(span="all"))])
    complete(engine, [ask("Hi", steering=tiny_steering(span="all"))])
    assert complete(engine, [ask("Hi")]) == first
    engine.forget("a key")
    engine.forget()
    assert complete(engine, [ask("Hi")]) == first


def test_the_whole_conversation_is_read(engine: Engine) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "More"))
    long = Request(messages=turns, sampling=SHORT)
    other = Request(messages=(turns[0], Message("assistant", "Goodbye"), turns[2]), sampling=SHORT)
    assert complete(engine, [long]) != complete(engine, [other])


def test_callers_at_once_get_what_they_would_have_got_alone(
    engine: Engine, model: LanguageModel
) -> None:
    asked = [
        [ask(text), ask(text, steering=tiny_steering(seed=n))]
        for n, text in enumerate(("Hi", "Tell me about the sea", "x" * 300))
    ]
    wanted = [alone(model, requests) for requests in asked]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda requests: complete(engine, requests), asked)) == wanted


def test_the_engine_says_which_model_answers_and_how_it_runs(
    engine: Engine, model: LanguageModel
) -> None:
    ref = engine.model
    assert (ref.id, ref.n_layers, ref.d_model) == ("tests/tiny-llama", 4, 32)
    assert ref.fingerprint == model.fingerprint
    assert engine.about == "32-bit, 0.0 GB on cpu"


# Stop


def test_a_cancelled_reply_ends_every_row_once(engine: Engine) -> None:
    long = Sampling(max_new_tokens=500)
    requests = [ask("Hi", sampling=long), ask("Tell me", sampling=SHORT), ask("So?", sampling=long)]
    stops: list[list[str]] = [[], [], []]
    seen: list[int] = []
    for step in engine.stream(requests, cancelled=lambda: len(seen) >= 8):
        seen.append(len(step))
        for row in step:
            if row.stop is not None:
                stops[row.row].append(row.stop)
    assert stops == [["cancelled"], ["length"], ["cancelled"]]
    assert len(seen) < 100


def test_a_reply_that_nobody_wants_any_more_does_no_harm(engine: Engine) -> None:
    wanted = complete(engine, [ask("Hi")])
    steps: Any = engine.stream([ask("Tell me", sampling=Sampling(max_new_tokens=500))])
    next(steps)
    steps.close()
    assert complete(engine, [ask("Hi")]) == wanted


# Refusals


def test_a_conversation_that_does_not_fit_is_refused_before_the_first_step(
    engine: Engine, model: LanguageModel
) -> None:
    n = room(model)
    with pytest.raises(InputError, match=r"at most 1,018 tokens fit.*this one has 1,019 tokens"):
        next(iter(engine.stream([ask("Hi"), ask("x" * (n + 1))])))


def test_the_last_token_that_fits_can_be_made(engine: Engine, model: LanguageModel) -> None:
    (reply,) = complete(engine, [ask("x" * room(model))])
    assert len(reply.token_ids) == 6


def test_a_text_far_too_long_is_refused_without_being_encoded(
    engine: Engine, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "render", lambda _: pytest.fail("was encoded"))
    with pytest.raises(InputError, match="this one has far more"):
        next(iter(engine.stream([ask("x" * 17_000)])))


def test_a_reply_longer_than_the_model_can_read_is_refused_in_words(engine: Engine) -> None:
    with pytest.raises(InputError, match="at most 0 tokens fit beside the reply") as refused:
        next(iter(engine.stream([ask("Hi", sampling=Sampling(max_new_tokens=2000))])))
    assert "fewer new tokens" in refused.value.hint


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_ends_the_reply_in_words_and_the_next_one_works(
    engine: Engine, model: LanguageModel, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    before = complete(engine, [ask("Hi")])

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as full:
        full.setattr(model, "decode_step", fail)
        with pytest.raises(ModelError, match="Memory ran out") as refused:
            complete(engine, [ask("Hi")])
    assert "fewer new tokens" in refused.value.hint
    assert complete(engine, [ask("Hi")]) == before


def test_another_failure_of_a_step_is_not_taken_for_memory(
    engine: Engine, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(model, "decode_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        complete(engine, [ask("Hi")])
