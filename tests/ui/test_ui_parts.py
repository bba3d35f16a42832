"""The page's parts that need no server."""

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import MODEL_ID, tiny_preset

from saif.chat import Comparison, Turn, take_turn
from saif.decoding import Sampling, StopReason
from saif.engine.local import LocalEngine
from saif.errors import InputError, SaifError
from saif.presets.controls import Controls
from saif.presets.library import Library
from saif.presets.preset import ConditionScores, Interval, Latent, LoadedPreset, Scores, Selected
from saif.runtime.language_model import LanguageModel
from saif.ui import streaming
from saif.ui.__main__ import main
from saif.ui.chat_view import Exchange, as_shown, column_view, without_empty
from saif.ui.choices import first_choice, layer_choices, most_latents
from saif.ui.describe import (
    dose_line,
    latents_table,
    scores_table,
    status_line,
)
from saif.ui.launch import Options, read_options, serve
from saif.ui.services import Services
from saif.ui.streaming import newest

# Streaming


def _collect(values: Iterator[int], cancel: threading.Event) -> list[int]:
    async def collect() -> list[int]:
        return [value async for value in newest(lambda: values, cancel)]

    return asyncio.run(collect())


def test_a_fast_stream_is_thinned_out_but_ends_with_its_last_value() -> None:
    def fast() -> Iterator[int]:
        for number in range(100):
            time.sleep(0.01)
            yield number

    started = time.perf_counter()
    seen = _collect(fast(), threading.Event())
    seconds = time.perf_counter() - started
    assert seen[-1] == 99
    assert seen == sorted(seen)
    assert len(seen) <= seconds / streaming.UPDATE_SECONDS + 2


def test_an_error_comes_after_the_values_before_it() -> None:
    seen: list[int] = []

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    async def collect() -> None:
        async for value in newest(failing, threading.Event()):
            seen.append(value)

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(collect())
    assert seen == [1]


def test_leaving_early_sets_cancel() -> None:
    cancel = threading.Event()

    def endless() -> Iterator[int]:
        while not cancel.is_set():
            time.sleep(0.01)
            yield 1

    async def leave() -> None:
        values = newest(endless, cancel)
        await anext(values)
        await values.aclose()

    asyncio.run(leave())
    assert cancel.is_set()


def test_a_stopped_stream_that_hangs_is_left_behind() -> None:
    cancel, release = threading.Event(), threading.Event()

    def hanging() -> Iterator[int]:
        yield 1
        release.wait(20)

    threading.Timer(0.3, cancel.set).start()
    started = time.perf_counter()
    assert _collect(hanging(), cancel) == [1]
    assert time.perf_counter() - started < 10
    release.set()


# The conversation as it is shown


def _exchange(engine: LocalEngine, controls: Controls, text: str = "hi") -> Exchange:
    turn = Turn(
        text=text,
        preset=tiny_preset(engine.language_model),
        instruction=Library().instruction("translate-french"),
        controls=controls,
        sampling=Sampling(max_new_tokens=4),
    )
    *_, state = take_turn(engine, Comparison(), turn)
    return Exchange(text, "Title", controls.placement, Comparison(), state)


def test_steering_is_never_claimed_where_it_did_not_happen(engine: LocalEngine) -> None:
    exchange = _exchange(engine, Controls(strength=1))
    column = exchange.state.columns[1]
    untouched = replace(column, reply=replace(column.reply, steered=0))
    state = replace(exchange.state, columns=(exchange.state.columns[0], untouched))
    shown = column_view((replace(exchange, state=state),), "steered")[-1]["content"]
    assert "not steered" in shown
    assert "dose" not in shown


def test_small_print_is_not_part_of_the_reply(engine: LocalEngine) -> None:
    exchange = _exchange(engine, Controls())
    user, reply, note = column_view((exchange,), "steered")
    assert user["content"] == "hi"
    assert reply["content"] == as_shown(exchange.state.columns[1].reply.text)
    assert note["content"].startswith('<span class="reply-caption">')


def test_a_title_cannot_smuggle_html_into_the_page(engine: LocalEngine) -> None:
    exchange = replace(_exchange(engine, Controls()), title="<img src=x>")
    assert "<img" not in column_view((exchange,), "steered")[-1]["content"]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a <b>bold</b> word", "a &lt;b>bold&lt;/b> word"),
        ("1 < 2 & 3", "1 < 2 & 3"),
        ("&lt; stays", "&amp;lt; stays"),
        ("<|im_end|>", "<|im_end|>"),
        ("![x](https://example.org/x.png)", "!\\[x](https://example.org/x.png)"),
        ("`a<b>` and <b>", "`a<b>` and &lt;b>"),
        ("```\n<b>\n```\n<i>", "```\n<b>\n```\n&lt;i>"),
        ("```\n<b> unclosed", "```\n<b> unclosed"),
    ],
)
def test_text_is_shown_as_it_was_written(written: str, shown: str) -> None:
    assert as_shown(written) == shown


@pytest.mark.parametrize(("stop", "kept"), [("cancelled", False), ("end", True)])
def test_a_turn_stopped_before_its_first_word_is_not_kept(
    engine: LocalEngine, stop: StopReason, kept: bool
) -> None:
    exchange = _exchange(engine, Controls())
    empty = tuple(
        replace(column, reply=replace(column.reply, token_ids=(), text="", stop=stop))
        for column in exchange.state.columns
    )
    silent = replace(exchange, state=replace(exchange.state, columns=empty))
    assert without_empty((exchange, silent)) == ((exchange, silent) if kept else (exchange,))


# The panel


def test_the_table_lists_the_latents_that_steer(model: LanguageModel) -> None:
    preset = tiny_preset(model)
    for placement in ("pre", "post"):
        source = replace(preset.preset.placements[placement].latents, k=5)
        shown = latents_table(LoadedPreset(preset.preset).select(placement, 3, source), strength=1)
        steering = preset.steering(placement, layer=3, k=5)
        found = re.findall(r'class="(up|down)".*?<td>(\d+)</td>', shown)
        assert tuple(int(latent) for _, latent in found) == steering.latents[3]
        assert [way for way, _ in found][:4] == (
            ["up", "down"] * 2 if placement == "pre" else ["down", "up"] * 2
        )


def test_words_from_a_file_are_escaped() -> None:
    words = ["<img src=x onerror=a()>"]
    latent = Latent.model_construct(id=7, words=words)
    table = latents_table(Selected((latent,), torch.tensor([-1.0]), None), strength=1)
    assert "<img" not in table
    assert "down" in table


def test_dose_follows_strength(model: LanguageModel) -> None:
    card = tiny_preset(model).preset
    assert "Dose 0.50</b> = 50% " in dose_line(card, "post", 0.5)
    assert "calibrated)" in dose_line(card, "post", 1)
    assert "Off." in dose_line(card, "post", 0)


def test_scores_are_shown_as_measured_or_said_to_be_missing(model: LanguageModel) -> None:
    card = tiny_preset(model).preset
    assert "not been measured" in scores_table(card, "post")
    rate = Interval(successes=3, n=4, low=0.3, high=0.95)
    condition = ConditionScores.model_construct(
        condition="steered", loose=rate, strict=rate, degenerate=rate, perplexity=None, dose=1.0
    )
    scores = Scores.model_construct(
        split="held-out",
        n=4,
        max_new_tokens=9,
        perplexity_bound=1.0,
        command="",
        conditions=[condition],
    )
    part = card.placements["post"].model_copy(update={"scores": scores})
    measured = card.model_copy(update={"placements": {"post": part}})
    table = scores_table(measured, "post")
    assert "75%" in table
    assert "3 of 4; 95 % interval 30% to 95%" in table


def test_a_failed_model_is_explained_in_the_head() -> None:
    line = status_line("a/<b>", "failed", "No room.")
    assert "No room." in line
    assert "<b>&lt;b&gt;</b>" in line
    assert 'title="a/&lt;b&gt;"' in line


def test_choices_mark_what_is_calibrated(model: LanguageModel) -> None:
    card = tiny_preset(model).preset
    assert layer_choices(card, "post") == [("1 (calibrated)", 1), ("3", 3)]
    assert most_latents(card, "post") == 8
    assert first_choice({"bullet-list": card, "translate-french": card}) == "translate-french"
    assert first_choice({"bullet-list": card}) == "bullet-list"
    assert first_choice({}) is None


def test_a_broken_preset_is_named_and_the_others_are_offered(
    library: Library, engine: LocalEngine
) -> None:
    from ui_server import loaded

    (library.model_folder(MODEL_ID) / "broken.json").write_text("{")
    cards, problems = Services(library, MODEL_ID, loaded(engine)).cards()
    assert set(cards) == {"question", "translate-french"}
    assert len(problems) == 1
    assert "broken.json" in problems[0]


# Starting


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Options]:
    """Reads options from a command line and an environment with nothing else in it."""

    def read(argv: list[str], env: dict[str, str]) -> Options:
        for name in list(os.environ):
            if name.startswith(("SAIF_", "SPACE")):
                monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return read_options(argv)

    return read


def test_options_come_from_the_command_line_before_the_environment(
    options: Callable[..., Options],
) -> None:
    env = {"SAIF_MODEL": "a", "SAIF_PORT": "8000", "SAIF_QUANTIZE": "int8", "SAIF_HOST": ""}
    found = options(["--model", "b"], env)
    assert (found.model, found.port, found.quantize) == ("b", 8000, "int8")
    assert found.host == "127.0.0.1"
    assert not found.zero_gpu
    assert options([], {"SPACES_ZERO_GPU": "true"}).zero_gpu
    assert options([], {"SAIF_HOST": "::1", "SPACE_ID": "you/saif"}).host == "::1"
    assert options([], {"SAIF_STUDY": "here"}).study == Path("here")
    assert options([], {"SAIF_STUDY": ""}).study is None


def test_help_names_every_option_and_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_options(["--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    for name in ("model", "quantize", "host", "port"):
        assert f"--{name}" in said
        assert f"SAIF_{name.upper()}" in said


@pytest.mark.parametrize(
    ("argv", "env", "owner"),
    [
        ([], {}, True),
        (["--host", "localhost"], {}, True),
        (["--host", "0.0.0.0"], {}, False),
        ([], {"SPACE_ID": "you/saif"}, False),
        ([], {"SPACE_ID": "you/saif", "SAIF_OWNER": "1"}, True),
        ([], {"SAIF_OWNER": "0"}, False),
        ([], {"SPACES_ZERO_GPU": "true", "SAIF_OWNER": "1"}, False),  # nothing there lasts
    ],
)
def test_only_the_machine_s_owner_may_change_its_model(
    options: Callable[..., Options], argv: list[str], env: dict[str, str], owner: bool
) -> None:
    assert options(argv, env).owner is owner


@pytest.mark.parametrize(
    ("argv", "env", "said"),
    [
        ([], {"SAIF_OWNER": "maybe"}, "SAIF_OWNER is 'maybe'"),
        (["--port", "x"], {}, "'x' is not a port"),
        (["--port", "70000"], {}, "'70000' is not a port"),
        ([], {"SAIF_PORT": "none"}, "'none' is not a port"),
        (["--quantize", "3bit"], {}, "'3bit' is not a way to quantize"),
        (["--nonsense"], {}, "No such option: --nonsense"),
        ([], {"SAIF_PRESETS": "/no/such/folder"}, "There is no folder"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    options: Callable[..., Options], argv: list[str], env: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said) as raised:
        options(argv, env)
    assert raised.value.hint
    assert "\n" not in raised.value.sentence


def test_app_py_exits_with_2_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--port", "x"], "app.py") == 2
    assert capsys.readouterr().err.startswith("app.py: 'x' is not a port. Give a number")


def test_a_taken_port_is_named_with_a_way_out() -> None:
    import socket

    import gradio as gr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SaifError, match=str(port)) as raised:
            serve(gr.Blocks(), "127.0.0.1", port)
    assert "--port" in raised.value.hint
