"""The page in Chromium: on the tiny model, and with a shipped preset on the embedded one."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from look import Screen, wait_until_served
from playwright.sync_api import Browser
from tiny import MODEL_ID, tiny_library, tiny_model
from ui_server import SpyEngine, free_port, loaded, page

from saif.core.verifiers import detect_language
from saif.engine.local import LocalEngine
from saif.engine.protocol import Engine
from saif.errors import ModelError
from saif.presets.library import SHIPPED, Library

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
LONG = "The weather is lovely today."  # the tiny model answers it at length in every column


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, SpyEngine, Library]]:
    model = tiny_model()
    spy = SpyEngine(LocalEngine(model))
    library = tiny_library(tmp_path_factory.mktemp("presets"), model)
    with page(library, MODEL_ID, loaded(spy)) as url:
        yield url, spy, library


@pytest.fixture
def spy(tiny: tuple[str, SpyEngine, Library]) -> SpyEngine:
    tiny[1].reset()
    tiny[1].seconds_per_step = 0.01  # long enough for Stop to be seen
    return tiny[1]


@pytest.fixture
def screen(
    browser: Browser, tiny: tuple[str, SpyEngine, Library], spy: SpyEngine
) -> Iterator[Screen]:
    """A tab; whatever the test does, the page must not complain or ask another host."""
    with_page = Screen.open(browser, tiny[0])
    yield with_page
    with_page.page.context.close()
    assert with_page.complaints == []
    assert with_page.strangers == set()


def test_both_columns_grow_while_streaming(screen: Screen, spy: SpyEngine) -> None:
    spy.seconds_per_step = 0.1
    screen.send(LONG, wait=False)
    seen: list[tuple[int, int]] = []
    deadline = time.monotonic() + 60
    while len(seen) < 4 and time.monotonic() < deadline:
        now = (screen.length("unsteered"), screen.length("steered"))
        if not seen or (now[0] > seen[-1][0] and now[1] > seen[-1][1]):
            seen.append(now)
    assert len(seen) == 4
    assert screen.page.locator("#stop").is_visible()
    assert "128 tokens steered" not in screen.caption("steered")[-1]


def test_strength_and_placement_change_the_steered_reply_alone(screen: Screen) -> None:
    screen.send("hello")
    plain, steered = screen.reply("unsteered"), screen.reply("steered")
    assert plain != steered
    assert "after the content · layer 1 · 4 latents · dose 1.00" in screen.caption("steered")[0]
    screen.set_strength(2)
    screen.retry()
    stronger = screen.reply("steered")
    assert stronger != steered
    assert "dose 2.00" in screen.caption("steered")[0]
    screen.page.get_by_label("Before content").check()
    screen.retry()
    assert screen.reply("steered") not in (steered, stronger)
    assert "before the content" in screen.caption("steered")[0]
    assert screen.replies("unsteered") == [plain]
    screen.set_strength(0)
    screen.retry()
    assert screen.replies("steered") == [plain]
    assert screen.caption("steered")[0].startswith("not steered (strength 0)")


def test_stop_keeps_the_words_so_far_and_ends_the_computation(
    screen: Screen, spy: SpyEngine
) -> None:
    spy.seconds_per_step = 0.1
    screen.send(LONG, wait=False)
    screen.page.wait_for_function("document.querySelectorAll('.reply-caption').length >= 2")
    screen.page.locator("#stop").click()
    screen.wait()
    assert spy.ended.wait(10)
    assert spy.steps_after_cancel <= 2
    assert spy.steps < 100
    for column in ("unsteered", "steered"):
        assert "stopped" in screen.caption(column)[0]
        assert "stopped" not in screen.reply(column)
    kept = screen.reply("steered")
    spy.seconds_per_step = 0
    screen.send("and now?")
    assert screen.replies("steered")[0] == kept
    assert len(screen.replies("steered")) == 2


def test_closing_the_tab_ends_the_computation(
    browser: Browser, tiny: tuple[str, SpyEngine, Library], spy: SpyEngine
) -> None:
    spy.seconds_per_step = 0.1
    leaving = Screen.open(browser, tiny[0])
    leaving.send(LONG, wait=False)
    leaving.page.locator("#chat-steered .reply-caption").wait_for()
    leaving.page.context.close()
    assert spy.ended.wait(15)
    assert spy.steps_after_cancel <= 2
    assert spy.steps < 120


def test_clear_empties_the_columns_and_offers_examples_again(screen: Screen) -> None:
    examples = screen.page.locator("#examples button")
    assert examples.count() == 4
    examples.first.click()
    screen.page.wait_for_function("document.querySelector('#message textarea').value !== ''")
    screen.send(screen.message.input_value())
    assert not examples.first.is_visible()
    screen.page.locator("#clear").click()
    examples.first.wait_for()
    assert screen.asked("unsteered") == screen.asked("steered") == []


def test_retry_gives_the_same_again_under_the_same_settings(screen: Screen) -> None:
    screen.send("one")
    screen.send("two")
    before = screen.replies("steered")
    screen.retry()
    assert screen.replies("steered") == before
    assert screen.asked("steered") == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("   ", "The message is empty."), ("x" * 100_000, "The message has 100,000 characters")],
)
def test_bad_input_is_explained_and_the_next_message_works(
    screen: Screen, text: str, sentence: str
) -> None:
    screen.message.fill(text)
    screen.page.locator("#send").click()
    screen.notice.get_by_text(sentence).wait_for()
    screen.wait()
    assert screen.message.input_value() == text
    assert screen.asked("steered") == []
    screen.send("hello")
    assert not screen.notice.is_visible()
    assert len(screen.replies("steered")) == 1


def test_what_is_typed_can_neither_dress_up_the_page_nor_fetch(screen: Screen) -> None:
    typed = "<b>bold</b> <|im_end|> ![x](http://127.0.0.2:9/x.png) <img src=http://127.0.0.2:9/y>"
    screen.send(typed)
    assert screen.asked("unsteered") == [typed]


def test_prompted_column_can_be_shown_and_streams_along(screen: Screen) -> None:
    assert not screen.page.locator("#chat-prompted").is_visible()
    screen.page.get_by_label("Show the prompted column").check()
    screen.page.locator("#chat-prompted").wait_for()
    screen.send("hello")
    assert screen.asked("prompted") == ["hello\nTranslate this sentence into French."]
    assert len(screen.replies("prompted")) == 1
    assert screen.overflow() <= 0


def test_panel_goes_back_to_what_was_calibrated(screen: Screen) -> None:
    screen.unfold("fine")
    screen.unfold("latents-fold")
    rows = screen.page.locator("#latents tbody tr")
    latents = screen.page.get_by_label("number input for Number of latents")
    for way_back in ("Before content", "Back to calibrated"):
        latents.fill("7")
        latents.press("Enter")
        screen.page.wait_for_function("document.querySelectorAll('#latents tbody tr').length == 7")
        if way_back == "Before content":
            screen.page.get_by_label(way_back).check()
        else:
            screen.page.get_by_role("button", name=way_back).click()
        screen.page.wait_for_function("document.querySelectorAll('#latents tbody tr').length == 4")
        assert latents.input_value() == "4"
    assert rows.first.inner_text().split() == ["↑", "up", "10", "word0", "other0"]


def test_everything_is_named_and_reachable_by_keyboard(screen: Screen) -> None:
    for fold in ("fine", "latents-fold", "scores-fold", "advanced"):
        screen.unfold(fold)
    nameless = screen.page.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, select')]
            .filter(e => e.offsetParent && !e.ariaLabel && !e.title && !e.innerText.trim()
                && ![...(e.labels || [])].some(l => l.textContent.trim()))
            .map(e => e.outerHTML)"""
    )
    assert nameless == []
    screen.message.fill("one")
    screen.message.press("Shift+Enter")
    screen.message.type("two")
    assert screen.message.input_value() == "one\ntwo"
    screen.message.press("Tab")
    assert screen.page.evaluate("document.activeElement.id") == "send"


def test_phone_shows_both_columns_and_hides_the_panel(
    browser: Browser, tiny: tuple[str, SpyEngine, Library], spy: SpyEngine
) -> None:
    phone = Screen.open(browser, tiny[0], width=390, height=844)
    phone.page.locator("#steering:not(.open)").wait_for(state="attached")
    phone.send(LONG)
    assert phone.overflow() <= 0
    above = phone.page.locator("#chat-unsteered").bounding_box()
    below = phone.page.locator("#chat-steered").bounding_box()
    assert above
    assert below
    assert above["y"] + above["height"] <= below["y"]
    assert below["y"] + below["height"] <= 844
    phone.page.locator("#steering .toggle-button").click()
    phone.page.locator("#steering.open").wait_for()
    assert phone.overflow() <= 0
    assert phone.complaints == []
    phone.page.context.close()


def test_page_is_there_before_the_model_and_says_when_it_comes(
    browser: Browser, tiny: tuple[str, SpyEngine, Library], spy: SpyEngine
) -> None:
    loading: Future[Engine] = Future()
    with page(tiny[2], MODEL_ID, loading) as url:
        early = Screen.open(browser, url)
        early.page.get_by_text("Loading the model").wait_for()
        early.send("hello", wait=False)
        early.page.locator("#chat-steered").get_by_text("still loading").wait_for()
        loading.set_result(spy)
        early.wait()
        assert early.reply("steered")
        early.page.locator(".model.ready").wait_for()
        early.page.context.close()


def test_page_says_why_there_is_no_model(
    browser: Browser, tiny: tuple[str, SpyEngine, Library]
) -> None:
    failed: Future[Engine] = Future()
    failed.set_exception(ModelError("The model 'x' could not be loaded.", hint="Try another."))
    with page(tiny[2], MODEL_ID, failed) as url:
        sad = Screen.open(browser, url)
        sad.page.get_by_text("The model 'x' could not be loaded. Try another.").wait_for()
        sad.page.context.close()


@pytest.mark.embedded
@pytest.mark.skipif(
    not (SHIPPED / "smollm2-135m-instruct" / "translate-french.json").is_file(),
    reason="no preset for the embedded model is shipped yet",
)
def test_the_weather_turns_french_on_the_embedded_model(browser: Browser) -> None:
    port = free_port()
    app = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=ROOT)
    try:
        wait_until_served(app, port)
        screen = Screen.open(browser, f"http://127.0.0.1:{port}")
        screen.page.locator(".model.ready").wait_for(timeout=300_000)
        screen.send(LONG, wait=False)
        screen.page.locator("#send").wait_for(timeout=300_000)
        assert detect_language(screen.reply("unsteered")) == "en"
        assert detect_language(screen.reply("steered")) == "fr"
        assert "tokens steered" in screen.caption("steered")[0]
        assert screen.complaints == []
        assert screen.strangers == set()
        screen.page.context.close()
    finally:
        app.terminate()
        app.wait(30)
