"""What only the machine's owner finds on the page: another model, a preset in the making."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from look import Screen
from playwright.sync_api import Browser
from tiny import MODEL_ID, tiny_model
from ui_server import SpyEngine, loaded, owner_library, page

from saif.engine.local import LocalEngine
from saif.engine.protocol import Engine
from saif.errors import ModelError
from saif.runtime.batch import StepResult
from saif.runtime.language_model import LanguageModel

pytestmark = pytest.mark.browser

OTHER = "tests/other"


def slow(engine: Engine) -> Engine:
    time.sleep(1.0)
    return engine


def out_of_memory() -> Engine:
    raise ModelError("Memory ran out while 'big' was loading.", hint="Close other programs.")


@pytest.fixture
def owner(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    library = owner_library(tmp_path, monkeypatch)
    models = {
        MODEL_ID: lambda: LocalEngine(tiny_model()),
        OTHER: lambda: slow(LocalEngine(tiny_model(model_id=OTHER))),
        "big": out_of_memory,
    }
    with page(library, MODEL_ID, loaded(LocalEngine(tiny_model())), models) as url:
        screen = Screen.open(browser, url)
        yield screen
        assert screen.complaints == []
        assert screen.strangers == set()
        screen.page.context.close()


def load(screen: Screen, name: str) -> None:
    box = screen.page.locator("#model input")
    box.fill(name)
    box.press("Enter")
    screen.page.locator("#load").click()


def test_a_preset_is_made_in_the_page_and_used_at_once(owner: Screen) -> None:
    page = owner.page
    owner.unfold("make-fold")
    page.locator("#make-cost").get_by_text("replies to write and judge").wait_for()
    page.locator("#make-instruction input").click()
    page.get_by_role("option", name="Write a letter").click()
    page.locator("#make").click()
    page.locator("#make-progress progress").wait_for()
    page.locator("#make-progress").get_by_text("Write a letter is ready").wait_for(timeout=90_000)
    page.wait_for_function("document.querySelector('#preset input').value == 'Write a letter'")
    page.locator("#about").get_by_text("letter").wait_for()
    owner.send("hello")
    assert owner.caption("steered")[0].startswith("Write a letter, after the content")
    assert page.locator("#make").is_visible()
    assert not page.locator("#make-cancel").is_visible()


@pytest.mark.serial
def test_a_preset_in_the_making_can_be_cancelled_also_from_a_page_opened_meanwhile(
    owner: Screen, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LanguageModel._step

    def slowly(model: LanguageModel, *args: Any) -> StepResult:
        time.sleep(0.2)  # so that the second page is there before the preset is made
        return step(model, *args)

    monkeypatch.setattr(LanguageModel, "_step", slowly)
    owner.unfold("make-fold")
    owner.page.locator("#make-effort").get_by_text("Thorough").click()
    owner.page.locator("#make").click()
    owner.page.locator("#make-cancel").wait_for()
    later = Screen.open(browser, owner.url)
    later.unfold("make-fold")
    later.page.locator("#make-cancel").click()
    for screen in (later, owner):
        screen.page.locator("#make-progress").get_by_text("Cancelled.").wait_for()
        screen.page.locator("#make").wait_for()
    later.page.context.close()


def test_another_model_is_loaded_and_the_conversation_ends_with_the_former(
    owner: Screen, browser: Browser
) -> None:
    other_window = Screen.open(browser, owner.url)
    owner.send("hello")
    owner.unfold("model-fold")
    owner.page.locator("#model-about").get_by_text("hub id").wait_for()
    load(owner, OTHER)
    owner.page.locator(".model.loading").wait_for()
    owner.page.locator(".model.ready b").get_by_text("other").wait_for()
    owner.notice.get_by_text(f"There is no preset for {OTHER} yet. Make one").wait_for()
    assert owner.asked("unsteered") == []
    assert owner.page.locator("#preset input").input_value() == ""
    # Without an SAE the page says so where the cost would be.
    owner.page.locator("#make-cost").get_by_text(f"no SAE for {OTHER}").wait_for()

    other_window.message.fill("hello")
    other_window.message.press("Enter")
    other_window.notice.get_by_text("changed to tests/other in another window").wait_for()
    assert other_window.message.input_value() == "hello"
    other_window.page.context.close()

    load(owner, MODEL_ID)
    owner.page.locator(".model.ready b").get_by_text("tiny-llama").wait_for()
    owner.page.wait_for_function("document.querySelector('#preset input').value != ''")
    owner.send("hello again")
    assert len(owner.replies("steered")) == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nonsense", "There is no model 'nonsense'. Try another."),
        ("big", "Memory ran out while 'big' was loading. Close other programs."),
    ],
)
def test_a_model_that_cannot_be_had_is_explained_and_the_chat_goes_on(
    owner: Screen, name: str, sentence: str
) -> None:
    owner.send("hello")
    owner.unfold("model-fold")
    load(owner, name)
    owner.notice.get_by_text(sentence).wait_for()
    owner.page.locator(".model.ready b").get_by_text("tiny-llama").wait_for()
    assert owner.asked("unsteered") == ["hello"]
    owner.send("and again")
    assert len(owner.replies("steered")) == 2
    owner.complaints.clear()


def test_a_page_served_to_others_offers_neither(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = owner_library(tmp_path, monkeypatch)
    with page(library, MODEL_ID, loaded(SpyEngine(LocalEngine(tiny_model())))) as url:
        visitor = Screen.open(browser, url)
        assert visitor.page.locator("#make-fold, #model-fold").count() == 0
        visitor.page.context.close()
