"""The one door to text: whole conversations in, replies out, nothing remembered."""

import pytest
import torch
from tiny import tiny_steering

from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Engine, Message, Reply, ReplyBuilder, Request, complete
from saif.errors import InputError, ModelError

SHORT = Sampling(max_new_tokens=6)


def ask(text: str, **options) -> Request:
    return Request(messages=(Message("user", text),), **{"sampling": SHORT, **options})


def test_replies_come_in_the_order_of_the_requests(engine: LocalEngine) -> None:
    requests = [ask("Hi"), ask("Tell me more", steering=tiny_steering()), ask("And?")]
    assert complete(engine, requests) == [complete(engine, [request])[0] for request in requests]


def test_a_reply_is_what_its_steps_add_up_to(engine: LocalEngine) -> None:
    request = ask("Hi", steering=tiny_steering())
    steps = [row for step in engine.stream([request]) for row in step]
    assert complete(engine, [request]) == [
        Reply(
            text="".join(step.text for step in steps),
            token_ids=tuple(step.token_id for step in steps if step.token_id is not None),
            steered=sum(step.steered for step in steps),
            stop=steps[-1].stop,
        )
    ]


def test_the_engine_remembers_nothing_between_requests(engine: LocalEngine) -> None:
    first = complete(engine, [ask("Hi")])
    complete(engine, [ask("Something else", steering=tiny_steering(span="all"))])
    assert complete(engine, [ask("Hi")]) == first


def test_the_whole_conversation_is_read(engine: LocalEngine) -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "More"))
    long = Request(messages=turns, sampling=SHORT)
    other = Request(messages=(turns[0], Message("assistant", "Goodbye"), turns[2]), sampling=SHORT)
    assert complete(engine, [long]) != complete(engine, [other])


def test_a_conversation_that_does_not_fit_is_refused_before_the_first_step(
    engine: LocalEngine,
) -> None:
    header = len(engine.language_model.render([{"role": "user", "content": ""}]))
    room = engine.language_model.context_length - SHORT.max_new_tokens - header
    engine.stream([ask("x" * room)])
    with pytest.raises(InputError, match=r"at most 1,018 tokens fit.*this one has 1,019 tokens"):
        engine.stream([ask("Hi"), ask("x" * (room + 1))])


def test_the_last_token_that_fits_can_be_made(engine: LocalEngine) -> None:
    header = len(engine.language_model.render([{"role": "user", "content": ""}]))
    room = engine.language_model.context_length - SHORT.max_new_tokens - header
    (reply,) = complete(engine, [ask("x" * room)])
    assert len(reply.token_ids) == 6


def test_a_text_far_too_long_is_refused_without_being_encoded(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.language_model, "render", lambda _: pytest.fail("was encoded"))
    with pytest.raises(InputError, match="this one has far more"):
        engine.stream([ask("x" * 17_000)])


def test_a_reply_longer_than_the_model_can_read_is_refused_in_words(engine: LocalEngine) -> None:
    with pytest.raises(InputError, match="at most 0 tokens fit beside the reply") as refused:
        engine.stream([ask("Hi", sampling=Sampling(max_new_tokens=2000))])
    assert "fewer new tokens" in refused.value.hint


def test_the_engine_says_which_model_answers(engine: LocalEngine) -> None:
    typed: Engine = engine
    ref = typed.model
    assert (ref.id, ref.n_layers, ref.d_model) == ("tests/tiny-llama", 4, 32)
    assert ref.fingerprint == engine.language_model.fingerprint


def test_a_reply_that_was_broken_off_counts_as_cancelled() -> None:
    builder = ReplyBuilder()
    builder.add("Hel", 65, 1, None)
    assert builder.reply() == Reply("Hel", (65,), 1, "cancelled")


def test_the_engine_says_how_the_model_runs(engine: LocalEngine) -> None:
    assert engine.about == "32-bit, 0.0 GB on cpu"
    engine.language_model.quantize = "4bit"
    engine.language_model.is_chat = False
    assert engine.about == "base model, 4bit, 0.0 GB on cpu"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_ends_the_reply_in_words_and_the_next_one_works(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    request = Request(messages=(Message("user", "Hi"),), sampling=Sampling(max_new_tokens=4))
    before = complete(engine, [request])
    advance = engine.language_model.decode_step

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(engine.language_model, "decode_step", fail)
    with pytest.raises(ModelError, match="Memory ran out") as refused:
        complete(engine, [request])
    assert "fewer new tokens" in refused.value.hint
    monkeypatch.setattr(engine.language_model, "decode_step", advance)
    assert complete(engine, [request]) == before


def test_another_failure_of_a_step_is_not_taken_for_memory(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine.language_model, "decode_step", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        complete(engine, [Request(messages=(Message("user", "Hi"),))])
