"""The page through gradio's real server and client, on the tiny model."""

import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import torch
from gradio_client.exceptions import AppError
from tiny import MODEL_ID, tiny_library, tiny_model
from ui_server import (
    MESSAGE,
    NOTICE,
    PROMPTED,
    STEERED,
    UNSTEERED,
    Answer,
    SpyEngine,
    Visitor,
    loaded,
    page,
)

from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Engine
from saif.errors import ModelError
from saif.presets.library import Library

LONG = "The weather is lovely today."
"""A message that the tiny model answers at length in every column."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, SpyEngine]]:
    """One page for all tests that don't need their own: starting one takes a second."""
    model = tiny_model()
    spy = SpyEngine(SharedEngine(model))
    library = tiny_library(tmp_path_factory.mktemp("presets"), model)
    with page(library, MODEL_ID, loaded(spy)) as address:
        yield address, spy


@pytest.fixture
def spy(shared: tuple[str, SpyEngine]) -> SpyEngine:
    shared[1].reset()
    return shared[1]


@pytest.fixture
def url(shared: tuple[str, SpyEngine], spy: SpyEngine) -> str:
    return shared[0]


@pytest.fixture
def visitor(url: str) -> Visitor:
    return Visitor(url)


def test_a_turn_streams_into_both_columns(visitor: Visitor, spy: SpyEngine) -> None:
    spy.seconds_per_step = 0.05
    job = visitor.start("hello", max_new_tokens=24)
    answer = Answer(job.result())
    assert answer.column(UNSTEERED)[0] == answer.column(STEERED)[0] == "hello"
    assert answer.reply(UNSTEERED) != answer.reply(STEERED)
    assert len(job.outputs()) > 4
    lengths = [len(Answer(o).column(STEERED)[1]) for o in job.outputs()[1:]]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 3
    assert "" not in [o[MESSAGE] for o in job.outputs()[1:]]  # the next one may be typed already


def test_small_print_says_what_was_done(visitor: Visitor) -> None:
    answer = visitor.send("hello", strength=0.5, k=3, layer=3, placement="pre")
    assert answer.caption(UNSTEERED) == "not steered · 12 tokens · cut at the token limit"
    said = answer.caption(STEERED)
    assert said.startswith(
        "Translate french, before the content · layer 3 · 3 latents · dose 0.50 · "
        "12 tokens steered · cut at the token limit · "
    )
    assert re.search(r"[\d.]+ steps/s$", said)


def test_strength_zero_is_called_not_steered_and_gives_the_same_text(visitor: Visitor) -> None:
    answer = visitor.send("hello", strength=0, temperature=0.8)
    assert answer.reply(STEERED) == answer.reply(UNSTEERED)
    assert answer.caption(STEERED).startswith("not steered (strength 0)")


def test_prompted_column_shows_the_instruction_where_the_placement_says(visitor: Visitor) -> None:
    before = visitor.send("hello", with_prompted=True, placement="pre").column(PROMPTED)
    assert before[0].endswith("\nhello")
    after = visitor.send("hello", with_prompted=True, placement="post").column(PROMPTED)
    assert after[3].startswith("hello\n")
    without = visitor.send("hello", with_prompted=False)
    assert len(without.column(PROMPTED)) == 6
    assert len(without.column(UNSTEERED)) == 9


def test_the_model_never_sees_the_small_print(visitor: Visitor, spy: SpyEngine) -> None:
    first = visitor.send("hello <b>you</b>")
    visitor.send("and again")
    unsteered, steered = spy.asked[1]
    assert [m.text for m in unsteered.messages][::2] == ["hello <b>you</b>", "and again"]
    assert not any("steered" in m.text for m in (*unsteered.messages, *steered.messages))
    assert len(steered.messages) == 3
    assert steered.messages[1].text != unsteered.messages[1].text
    assert first.column(STEERED)[0] == "hello &lt;b>you&lt;/b>"


def test_visitors_do_not_see_each_other(url: str, spy: SpyEngine) -> None:
    one, other = Visitor(url), Visitor(url)
    one.send("mine")
    answer = other.send("yours")
    assert answer.column(UNSTEERED)[0] == "yours"
    assert len(answer.column(UNSTEERED)) == 3
    assert len(spy.asked[1][0].messages) == 1


def test_visitors_are_answered_at_the_same_time(url: str, spy: SpyEngine) -> None:
    texts = [LONG, "hello", f"{LONG} {LONG}"]
    visitors = [Visitor(url) for _ in texts]
    asking = list(zip(visitors, texts, strict=True))
    alone = [visitor.send(text, max_new_tokens=40) for visitor, text in asking]
    for visitor in visitors:
        visitor.client.predict(api_name="/clear")
    spy.reset()
    spy.seconds_per_step = 0.1
    jobs = [visitor.start(text, max_new_tokens=40) for visitor, text in asking]
    deadline = time.monotonic() + 10
    while len(spy.asked) < 3:
        assert not any(job.done() for job in jobs)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for job, answer in zip(jobs, alone, strict=True):
        together = Answer(job.result(timeout=30))
        assert together.reply(STEERED) == answer.reply(STEERED)
        assert together.reply(UNSTEERED) == answer.reply(UNSTEERED)


def test_retry_redoes_the_last_turn_with_the_current_settings(
    visitor: Visitor, spy: SpyEngine
) -> None:
    visitor.send("one")
    first = visitor.send("two")
    again = visitor.retry(strength=2)
    assert again.column(UNSTEERED)[:5] == first.column(UNSTEERED)[:5]
    assert again.reply(STEERED) != first.reply(STEERED)
    assert "dose 2.00" in again.caption(STEERED)
    assert [r.messages for r in spy.asked[2]] == [r.messages for r in spy.asked[1]]


def test_stop_keeps_what_was_said_and_the_next_message_works(
    visitor: Visitor, spy: SpyEngine
) -> None:
    spy.seconds_per_step = 0.05
    job = visitor.start(LONG, max_new_tokens=400)
    _wait_for_steps(spy, 5)
    visitor.stop()
    answer = Answer(job.result(timeout=10))
    assert answer.reply(STEERED)
    assert "stopped" in answer.caption(STEERED)
    assert "stopped" not in answer.reply(STEERED)
    assert spy.ended.wait(5)
    assert spy.steps_after_cancel <= 2
    assert spy.steps < 60
    spy.seconds_per_step = 0
    following = visitor.send("on we go")
    assert following.column(STEERED)[1] == answer.reply(STEERED)
    assert len(following.column(STEERED)) == 6


def test_a_visitor_who_leaves_ends_the_computation(visitor: Visitor, spy: SpyEngine) -> None:
    spy.seconds_per_step = 0.05
    job = visitor.start(LONG, max_new_tokens=400)
    _wait_for_steps(spy, 5)
    job.cancel()
    assert spy.ended.wait(5)
    assert spy.steps_after_cancel <= 2
    assert spy.steps < 60


def test_clear_forgets_the_conversation(visitor: Visitor, spy: SpyEngine) -> None:
    visitor.send("hello")
    visitor.client.predict(api_name="/clear")
    visitor.send("anew")
    assert len(spy.asked[1][0].messages) == 1


@pytest.mark.parametrize(
    ("text", "changed", "sentence"),
    [
        ("", {}, "The message is empty. Type something to send."),
        ("   \n", {}, "The message is empty. Type something to send."),
        ("x" * 100_000, {}, "The message has 100,000 characters; at most 20,000 fit."),
        ("x" * 5_000, {}, "The conversation is too long for this model"),
        ("hi", {"preset": "nonsense"}, "nonsense is not in the list of choices"),
        ("hi", {"strength": 9}, "greater than maximum value 3"),
        ("hi", {"layer": 2}, "2 is not in the list of choices"),
    ],
)
def test_bad_input_is_refused_in_words_and_the_next_message_works(
    visitor: Visitor, text: str, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AppError, match=re.escape(sentence)):
        visitor.send(text, **changed)
    assert len(visitor.send("hello").column(STEERED)) == 3


def test_a_refused_message_goes_back_into_the_box(visitor: Visitor) -> None:
    job = visitor.start("x" * 30_000)
    with pytest.raises(AppError):
        job.result()
    last = job.outputs()[-1]
    assert last[MESSAGE] == "x" * 30_000
    assert "at most 20,000 fit" in last[NOTICE]
    assert last[STEERED] == []


def test_a_bug_shows_a_reference_that_is_in_the_log(
    visitor: Visitor, spy: SpyEngine, caplog: pytest.LogCaptureFixture
) -> None:
    spy.fail_at = 3
    with caplog.at_level(logging.ERROR), pytest.raises(AppError) as raised:
        visitor.send("hello")
    found = re.search(r"reference (\d{8})", str(raised.value))
    assert found
    assert "ZeroDivisionError" not in str(raised.value)
    logged = next(record for record in caplog.records if found[1] in record.getMessage())
    assert logged.exc_info is not None
    assert logged.exc_info[0] is ZeroDivisionError
    spy.fail_at = None
    assert len(visitor.send("hello").column(STEERED)) == 3


def test_memory_that_runs_out_is_explained_and_the_next_message_works(
    visitor: Visitor, spy: SpyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as full:
        full.setattr(spy.engine.language_model, "decode_step", run_out)
        with pytest.raises(AppError, match="Memory ran out before the reply was finished"):
            visitor.send("hello")
    assert len(visitor.send("hello").column(STEERED)) == 3


def test_a_message_waits_for_the_model_to_load(library: Library, engine: LocalEngine) -> None:
    loading: Future[Engine] = Future()
    with page(library, MODEL_ID, loading) as url:
        job = Visitor(url).start("hello")
        while not job.outputs():
            threading.Event().wait(0.05)
        assert "The model is still loading" in Answer(job.outputs()[0]).caption(STEERED)
        loading.set_result(engine)
        assert Answer(job.result(timeout=20)).reply(STEERED)


def test_stop_ends_the_wait_for_the_model(library: Library) -> None:
    loading: Future[Engine] = Future()
    with page(library, MODEL_ID, loading) as url:
        visitor = Visitor(url)
        job = visitor.start("hello")
        while not job.outputs():
            threading.Event().wait(0.05)
        visitor.stop()
        outputs = job.result(timeout=10)
        assert outputs[MESSAGE] == "hello"  # nothing came of it, so nothing typed is lost
        assert outputs[STEERED] == []


def test_a_model_that_cannot_load_is_explained(library: Library) -> None:
    failed: Future[Engine] = Future()
    failed.set_exception(ModelError("The model 'x' could not be loaded.", hint="Try another."))
    with (
        page(library, MODEL_ID, failed) as url,
        pytest.raises(AppError, match=r"The model 'x' could not be loaded\. Try another\."),
    ):
        Visitor(url).send("hello")


def test_a_model_without_presets_is_explained(library: Library, engine: LocalEngine) -> None:
    with (
        page(library, "tests/other", loaded(engine)) as url,
        pytest.raises(AppError, match=r"There is no preset for tests/other yet\."),
    ):
        Visitor(url).send("hello", preset=None, layer=None, k=1)


def _wait_for_steps(spy: SpyEngine, steps: int) -> None:
    for _ in range(400):
        if spy.steps >= steps:
            return
        threading.Event().wait(0.05)
    raise AssertionError("the turn didn't get going")


def test_clear_and_a_closed_page_free_what_was_kept_of_that_conversation(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # gradio's client looks whether it was closed once in such an interval.
    monkeypatch.setenv("GRADIO_HEARTBEAT_INTERVAL", "0.5")
    model = tiny_model()
    engine = SharedEngine(model)
    library = tiny_library(tmp_path_factory.mktemp("presets"), model)
    memory = engine.prefix_cache
    assert memory is not None

    def kept() -> int:
        engine.wait_for_reprefills()
        return memory.bytes

    with page(library, MODEL_ID, loaded(engine)) as address:
        first, second = Visitor(address), Visitor(address)
        first.send("Hi")
        of_first = kept()
        assert of_first > 0
        second.send(LONG)
        second.send("And then?")
        assert kept() > of_first
        second.client.predict(api_name="/clear")
        assert kept() == of_first
        second.send(LONG)  # a new conversation, which is kept as well
        assert kept() > of_first
        second.client.close()
        for _ in range(100):
            if kept() == of_first:
                break
            time.sleep(0.1)
        assert kept() == of_first
