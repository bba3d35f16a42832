"""The prefix cache changes the work, never the reply."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_steering

from saif.core.steering import LatentEncoder, Steering
from saif.core.types import SPANS, Schedule, Span
from saif.decoding import Sampling, decode
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Message, Reply, Request, complete
from saif.runtime import prefix_cache
from saif.runtime.batch import Batch, Row
from saif.runtime.language_model import LanguageModel
from saif.runtime.prefix_cache import PrefixCache

TURNS = ["Hi, who are you?", "Tell me about the sea.", "And its fishes?", "Go on."]


def tokens_run(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass runs from now on, padding included."""
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
    """A conversation in columns, each with its own history. Waits for the reprefills."""
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
        engine.wait_for_reprefills()
        found.append(replies)
        histories = [
            (*history, Message("assistant", reply.text))
            for history, reply in zip(histories, replies, strict=True)
        ]
    return found


@pytest.mark.parametrize("fast_decoder", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("span", SPANS)
def test_a_conversation_is_the_same_with_and_without_a_prefix_cache(
    span: Span, temperature: float, fast_decoder: bool
) -> None:
    steerings = [None, tiny_steering(1, span=span), tiny_steering(2, span=span, seed=3)]
    sampling = Sampling(max_new_tokens=12, temperature=temperature)
    slow, fast = tiny_model(), tiny_model()
    if fast_decoder:
        fast.use_fast_decoder()
    expected = talk(LocalEngine(slow), steerings, sampling)
    engine = LocalEngine(fast, cache_bytes=1 << 24)
    assert talk(engine, steerings, sampling) == expected
    assert engine.prefix_cache is not None
    assert engine.prefix_cache.bytes > 0


@pytest.mark.parametrize("span", SPANS)
def test_a_turn_prefills_only_what_is_new(span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.end_ids = frozenset()  # long replies
    engine = LocalEngine(model, cache_bytes=1 << 24)
    seen = tokens_run(model, monkeypatch)
    steerings = [None, tiny_steering(1, span=span)]
    sampling = Sampling(max_new_tokens=60)
    talk(engine, steerings, sampling, TURNS[:3])
    seen.clear()
    talk(engine, steerings, sampling, TURNS)  # the first three turns once more, then a new one
    # In each turn what the template puts around a message, and the message, in two rows.
    around = len(model.render([{"role": "user", "content": ""}])) + 20
    most = 2 * (max(map(len, TURNS)) + around)
    assert max(seen) <= most
    plain = tokens_run(model, monkeypatch)
    talk(LocalEngine(model), steerings, sampling, TURNS)
    assert max(plain) > 3 * most


@pytest.mark.parametrize("span", SPANS)
def test_a_steered_reply_is_cached_as_history(span: Span) -> None:
    """A `response` span leaves history alone, so the reply is prefilled once more unsteered."""
    model = tiny_model()
    model.end_ids = frozenset()
    engine = LocalEngine(model, cache_bytes=1 << 24)
    messages = (Message("user", TURNS[1]),)
    push = tiny_steering(1, span=span)
    sampling = Sampling(max_new_tokens=30)
    (reply,) = complete(engine, [Request(messages=messages, steering=push, sampling=sampling)])
    engine.wait_for_reprefills()
    prompt = model.render([{"role": "user", "content": TURNS[1]}])
    read = [*prompt, *reply.token_ids]
    assert engine.prefix_cache is not None
    assert engine.prefix_cache.get(Row([*read, 65, 66], push)).length >= len(read) - 1


CLAMP = LatentEncoder(torch.randn(2, 32), torch.zeros(2), torch.zeros(2), torch.randn(2, 32))


def variants() -> dict[str, Steering | None]:
    """Ways to steer the same tokens; none may use another's keys where it is steered."""
    base = tiny_steering(1, span="all")
    other = dict(base.directions), base.span, dict(base.dose)
    return {
        "plain": None,
        "base": base,
        "other direction": tiny_steering(1, span="all", seed=9),
        "other layer": tiny_steering(2, span="all"),
        "longer": tiny_steering(1, span="all", size=5.0),
        "fading": Steering(*other, schedule=Schedule(half_life=3)),
        "keeps its norm": Steering(*other, schedule=Schedule(keep_norm=True)),
        "clamped": Steering(*other, clamped={1: CLAMP}),
        "in the prompt": tiny_steering(1, span="prompt"),
        "in the response": tiny_steering(1),
    }


@pytest.mark.parametrize("first", variants())
@pytest.mark.parametrize("second", variants())
def test_a_prefix_of_another_steering_is_not_used(first: str, second: str) -> None:
    model = tiny_model()
    ids = model.render([{"role": "user", "content": TURNS[1]}])
    before, now = variants()[first], variants()[second]
    _, expected = model.prefill([Row(ids, now)])
    cache = model.new_prefix_cache(1 << 24)
    sampling = Sampling(max_new_tokens=4)
    list(decode(model, [Row(ids, steering=before, sampling=sampling)], cache=cache))
    _, found = model.prefill([Row(ids, now)], cache=cache)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert found.steered == expected.steered


def test_logits_after_a_cached_prefix_are_those_of_running_all() -> None:
    model = tiny_model()
    ids = model.render([{"role": "user", "content": TURNS[1] * 3}])
    starts = [Row(ids), Row(ids[:60], tiny_steering(1)), Row(ids[:20])]
    _, expected = model.prefill(starts)
    cache = PrefixCache(1 << 24, model.control_ids)
    for cut in (50, 15):
        batch, _ = model.prefill([Row(ids[:cut])])
        cache.put(batch, [0])
    _, found = model.prefill(starts, cache=cache)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert found.steered == expected.steered


def put(cache: PrefixCache, model: LanguageModel, text: str, cache_key: str = "") -> None:
    batch, _ = model.prefill([Row(list(text.encode()), cache_key=cache_key)])
    cache.put(batch, [0])


def cached(cache: PrefixCache, text: str) -> int:
    return cache.get(Row(list(text.encode()))).length


def test_a_row_is_put_once_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that was run: its last token never was."""
    model, lengths = tiny_model(), list[list[int]]()
    cache = PrefixCache(1 << 24, model.control_ids)
    put = cache.put

    def note(batch: Batch, rows: Sequence[int]) -> None:
        lengths.append([len(batch.rows[row].token_ids) for row in rows])
        put(batch, rows)

    monkeypatch.setattr(cache, "put", note)
    model.end_ids = frozenset()
    rows = [Row([65] * 10, sampling=Sampling(max_new_tokens=n)) for n in (4, 2, 4)]
    list(decode(model, rows, cache=cache))
    assert lengths == [[], [11], [], [13, 13]]


def test_what_was_used_longest_ago_goes_first() -> None:
    model = tiny_model()
    cache = PrefixCache(1 << 24, model.control_ids)
    put(cache, model, "a" * 40)
    one = cache.bytes
    cache = PrefixCache(2 * one, model.control_ids)
    for letter in "ab":
        put(cache, model, letter * 40)
    assert cached(cache, "a" * 60) == 40  # used again
    put(cache, model, "c" * 40)
    assert [cached(cache, letter * 60) for letter in "abc"] == [40, 0, 40]
    assert cache.bytes == 2 * one
    put(cache, model, "d" * 200)  # more than fits at all
    assert cached(cache, "d" * 300) == 0


def test_a_longer_prefix_takes_the_place_of_a_shorter_one_of_its_key() -> None:
    model = tiny_model()
    cache = PrefixCache(1 << 24, model.control_ids)
    for text in ("Hello", "Hello there", "Hello there, you"):
        put(cache, model, text)
    assert len(cache._entries) == 1
    assert cached(cache, "Hello there, you and me") == len("Hello there, you")
    assert cached(cache, "Hello there, you") == len("Hello there, you") - 1  # one is run anew
    put(cache, model, "Hello there, you and me", "another")
    assert len(cache._entries) == 2


def test_the_least_recently_used_of_too_many_entries_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefix_cache, "_MAX_ENTRIES", 2)
    model = tiny_model()
    cache = PrefixCache(1 << 24, model.control_ids)
    for letter in "abc":
        put(cache, model, letter * 40)
    assert [cached(cache, letter * 60) for letter in "abc"] == [0, 40, 40]


def test_what_an_evicted_key_still_brings_is_not_kept() -> None:
    model = tiny_model()
    cache = PrefixCache(1 << 24, model.control_ids)
    put(cache, model, "mine", "mine")
    put(cache, model, "yours", "yours")
    cache.evict("mine")
    put(cache, model, "mine again", "mine")
    assert [cached(cache, text) for text in ("mine again", "yours too")] == [0, 5]
    cache.evict()
    put(cache, model, "yours", "yours")  # all so far, not for good
    assert cached(cache, "yours too") == 5


def test_what_is_forgotten_is_gone_and_nothing_is_kept_unasked() -> None:
    engine = LocalEngine(tiny_model(), cache_bytes=1 << 24)
    talk(engine, [None], Sampling(max_new_tokens=4), TURNS[:1])
    assert engine.prefix_cache is not None
    assert engine.prefix_cache.bytes > 0
    engine.forget()
    assert engine.prefix_cache.bytes == 0
    plain = LocalEngine(tiny_model())
    talk(plain, [None], Sampling(max_new_tokens=4), TURNS[:1])
    plain.forget()
    assert plain.prefix_cache is None


def test_a_model_with_a_sliding_window_keeps_nothing() -> None:
    model = tiny_model()
    model._window = 16
    engine = LocalEngine(model, cache_bytes=1 << 24)
    talk(engine, [None], Sampling(max_new_tokens=4), TURNS[:2])
    assert engine.prefix_cache is None


def test_an_engine_leaves_its_model_and_the_other_engines_of_it_alone() -> None:
    model = tiny_model()
    engine = LocalEngine(model, cache_bytes=1 << 24)
    before = dict(vars(model))
    talk(engine, [tiny_steering(1)], Sampling(max_new_tokens=4), TURNS[:1])
    assert engine.prefix_cache is not None
    kept = engine.prefix_cache.bytes
    for other in (LocalEngine(model), SharedEngine(model, cache_bytes=0)):
        talk(other, [None], Sampling(max_new_tokens=4), TURNS[:1])
        assert other.prefix_cache is None
    assert engine.prefix_cache.bytes == kept
    assert vars(model) == before


def test_one_conversation_is_forgotten_and_the_others_stay() -> None:
    engine = LocalEngine(tiny_model(), cache_bytes=1 << 24)
    cache = engine.prefix_cache
    assert cache is not None

    def say(text: str, cache_key: str) -> None:
        message = (Message("user", text),)
        complete(
            engine,
            [
                Request(messages=message, steering=steering, cache_key=cache_key)
                for steering in (None, tiny_steering(1))
            ],
        )
        engine.wait_for_reprefills()

    say(TURNS[0], "mine")
    before = cache.bytes
    say(TURNS[1], "yours")
    say(TURNS[0], "yours")  # what I said too
    engine.forget("yours")
    assert cache.bytes == before
    say(TURNS[2], "yours")  # it was forgotten for good
    assert cache.bytes == before
    engine.forget("mine")
    assert cache.bytes == 0


def test_what_is_still_being_decoded_when_it_is_forgotten_stays_forgotten() -> None:
    engine = LocalEngine(tiny_model(), cache_bytes=1 << 24)
    request = Request(
        messages=(Message("user", TURNS[1]),), steering=tiny_steering(1), cache_key="mine"
    )
    steps = engine.stream([request])
    next(steps)
    engine.forget("mine")
    assert list(steps)
    engine.wait_for_reprefills()
    assert engine.prefix_cache is not None
    assert engine.prefix_cache.bytes == 0
