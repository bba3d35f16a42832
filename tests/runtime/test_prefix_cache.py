"""What is kept from turn to turn changes the work, never the reply."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_steering

from saif.core.steering import LatentReader, Steering
from saif.core.types import SPANS, Span
from saif.decoding import Row, Sampling, decode
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Reply, Request, complete
from saif.runtime.batch import BatchRow, RowStart
from saif.runtime.language_model import LanguageModel
from saif.runtime.prefix_cache import PrefixCache

TURNS = ["Hi, who are you?", "Tell me about the sea.", "And its fishes?", "Go on."]


def read_tokens(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass reads from now on, padding included."""
    seen: list[int] = []
    forward = model._forward

    def counted(input_ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(input_ids.numel())
        return forward(input_ids, *rest, **more)

    monkeypatch.setattr(model, "_forward", counted)
    return seen


def talk(
    engine: LocalEngine,
    steerings: Sequence[Steering | None],
    sampling: Sampling,
    turns: Any = TURNS,
) -> list[list[Reply]]:
    """A conversation in columns, each with its own history. Settles after each turn."""
    histories: list[tuple[Message, ...]] = [() for _ in steerings]
    found = []
    for text in turns:
        histories = [(*history, Message("user", text)) for history in histories]
        replies = complete(
            engine,
            [
                Request(messages=history, steering=steering, sampling=sampling)
                for history, steering in zip(histories, steerings, strict=True)
            ],
        )
        engine.settled()
        found.append(replies)
        histories = [
            (*history, Message("assistant", reply.text))
            for history, reply in zip(histories, replies, strict=True)
        ]
    return found


@pytest.mark.parametrize("fast_decoder", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("span", SPANS)
def test_a_conversation_is_the_same_with_and_without_memory(
    span: Span, temperature: float, fast_decoder: bool
) -> None:
    steerings = [None, tiny_steering(1, span=span), tiny_steering(2, span=span, seed=3)]
    sampling = Sampling(max_new_tokens=12, temperature=temperature)
    slow, fast = tiny_model(), tiny_model()
    if fast_decoder:
        fast.use_fast_decoder()
    expected = talk(LocalEngine(slow), steerings, sampling)
    assert talk(LocalEngine(fast, turn_bytes=1 << 24), steerings, sampling) == expected
    assert fast.turns is not None
    assert fast.turns.bytes > 0


@pytest.mark.parametrize("span", SPANS)
def test_a_turn_reads_only_what_is_new(span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.end_ids = frozenset()  # long replies
    engine = LocalEngine(model, turn_bytes=1 << 24)
    seen = read_tokens(model, monkeypatch)
    steerings = [None, tiny_steering(1, span=span)]
    sampling = Sampling(max_new_tokens=60)
    talk(engine, steerings, sampling, TURNS[:3])
    seen.clear()
    talk(engine, steerings, sampling, TURNS)  # the first three turns once more, then a new one
    # In each turn what the template puts around a message, and the message, in two rows.
    around = len(model.render([{"role": "user", "content": ""}])) + 20
    most = 2 * (max(map(len, TURNS)) + around)
    assert max(seen) <= most
    plain = read_tokens(model, monkeypatch)
    model.turns = None
    talk(LocalEngine(model), steerings, sampling, TURNS)
    assert max(plain) > 3 * most


@pytest.mark.parametrize("span", SPANS)
def test_a_steered_reply_is_at_hand_as_history(span: Span) -> None:
    """A `response` span leaves history alone, so the reply has to be read once more unsteered."""
    model = tiny_model()
    model.end_ids = frozenset()
    engine = LocalEngine(model, turn_bytes=1 << 24)
    messages = (Message("user", TURNS[1]),)
    push = tiny_steering(1, span=span)
    sampling = Sampling(max_new_tokens=30)
    (reply,) = complete(engine, [Request(messages=messages, steering=push, sampling=sampling)])
    engine.settled()
    prompt = model.render([{"role": "user", "content": TURNS[1]}])
    read = [*prompt, *reply.token_ids]
    later = BatchRow([*read, 65, 66], len(read) + 2, push)
    assert model._recall(later).length >= len(read) - 1


CLAMP = LatentReader(torch.randn(2, 32), torch.zeros(2), torch.zeros(2), torch.randn(2, 32))


def variants() -> dict[str, Steering | None]:
    """Ways to steer the same tokens; none may use what another has read where it is steered."""
    base = tiny_steering(1, span="all")
    other = dict(base.directions), base.span, dict(base.dose)
    return {
        "plain": None,
        "base": base,
        "other direction": tiny_steering(1, span="all", seed=9),
        "other layer": tiny_steering(2, span="all"),
        "longer": tiny_steering(1, span="all", size=5.0),
        "fading": Steering(*other, half_life=3),
        "keeps its norm": Steering(*other, keep_norm=True),
        "clamped": Steering(*other, clamped={1: CLAMP}),
        "in the prompt": tiny_steering(1, span="prompt"),
        "in the response": tiny_steering(1),
    }


@pytest.mark.parametrize("first", variants())
@pytest.mark.parametrize("second", variants())
def test_what_was_read_with_another_steering_is_not_taken(first: str, second: str) -> None:
    model = tiny_model()
    ids = model.render([{"role": "user", "content": TURNS[1]}])
    before, now = variants()[first], variants()[second]
    _, expected = model.start([RowStart(ids, now)])
    model.turns = PrefixCache(1 << 24)
    sampling = Sampling(max_new_tokens=4)
    list(decode(model, [Row(prompt_ids=ids, steering=before, sampling=sampling)]))
    _, found = model.start([RowStart(ids, now)])
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert found.steered == expected.steered


def test_logits_after_remembered_tokens_are_those_of_reading_all() -> None:
    model = tiny_model()
    ids = model.render([{"role": "user", "content": TURNS[1] * 3}])
    starts = [RowStart(ids), RowStart(ids[:60], tiny_steering(1)), RowStart(ids[:20])]
    _, expected = model.start(starts)
    model.turns = PrefixCache(1 << 24)
    for cut in (50, 15):
        batch, _ = model.start([RowStart(ids[:cut])])
        model.remember(batch, [0])
    _, found = model.start(starts)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert found.steered == expected.steered


def entry(model: LanguageModel, text: str) -> None:
    batch, _ = model.start([RowStart(list(text.encode()))])
    model.remember(batch, [0])


def recalled(model: LanguageModel, text: str) -> int:
    ids = list(text.encode())
    return model._recall(BatchRow(ids, len(ids), None)).length


def test_what_was_used_longest_ago_goes_first() -> None:
    model = tiny_model()
    model.turns = PrefixCache(1 << 24)
    entry(model, "a" * 40)
    one = model.turns.bytes
    model.turns = PrefixCache(2 * one)
    for letter in "ab":
        entry(model, letter * 40)
    assert recalled(model, "a" * 60) == 40  # used again
    entry(model, "c" * 40)
    assert [recalled(model, letter * 60) for letter in "abc"] == [40, 0, 40]
    assert model.turns.bytes <= 2 * one
    entry(model, "d" * 200)  # more than fits at all
    assert recalled(model, "d" * 300) == 0


def test_a_longer_reading_takes_the_place_of_a_shorter_one() -> None:
    model = tiny_model()
    model.turns = PrefixCache(1 << 24)
    for text in ("Hello", "Hello there", "Hello there, you"):
        entry(model, text)
    assert len(model.turns._entries) == 1
    assert recalled(model, "Hello there, you and me") == len("Hello there, you")
    assert recalled(model, "Hello there, you") == len("Hello there, you") - 1  # one is read anew


def test_what_is_forgotten_is_read_again_and_nothing_is_kept_unasked() -> None:
    engine = LocalEngine(tiny_model(), turn_bytes=1 << 24)
    talk(engine, [None], Sampling(max_new_tokens=4), TURNS[:1])
    assert engine.language_model.turns.bytes > 0
    engine.forget()
    assert engine.language_model.turns.bytes == 0
    plain = LocalEngine(tiny_model())
    talk(plain, [None], Sampling(max_new_tokens=4), TURNS[:1])
    plain.forget()
    assert plain.language_model.turns is None


def test_a_model_with_a_sliding_window_keeps_nothing() -> None:
    model = tiny_model()
    model._window = 16
    model.turns = PrefixCache(1 << 24)
    entry(model, "Hello there")
    assert model.turns.bytes == 0
    assert recalled(model, "Hello there, you") == 0


def test_one_conversation_is_forgotten_and_the_others_stay() -> None:
    engine = LocalEngine(tiny_model(), turn_bytes=1 << 24)
    memory = engine.language_model.turns
    assert memory is not None

    def say(text: str, conversation: str) -> None:
        message = (Message("user", text),)
        steering_hooks = (None, tiny_steering(1))
        complete(
            engine,
            [
                Request(messages=message, steering=p, conversation=conversation)
                for p in steering_hooks
            ],
        )
        engine.settled()

    say(TURNS[0], "mine")
    before = memory.bytes
    say(TURNS[1], "yours")
    say(TURNS[0], "yours")  # what I said too
    engine.forget("yours")
    assert memory.bytes == before
    say(TURNS[2], "yours")  # it was forgotten for good
    assert memory.bytes == before
    engine.forget("mine")
    assert memory.bytes == 0


def test_what_is_still_being_read_when_it_is_forgotten_stays_forgotten() -> None:
    engine = LocalEngine(tiny_model(), turn_bytes=1 << 24)
    request = Request(
        messages=(Message("user", TURNS[1]),), steering=tiny_steering(1), conversation="mine"
    )
    steps = engine.stream([request])
    next(steps)
    engine.forget("mine")
    assert list(steps)
    engine.settled()
    assert engine.language_model.turns is not None
    assert engine.language_model.turns.bytes == 0
