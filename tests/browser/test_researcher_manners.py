"""The researcher's page says each thing once, with its spaces, and shows all of it on a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_participants import complete, make_store
from playwright.sync_api import Browser, Page
from researcher_server import SECRET, serving

from saif.study.store.store import Store

pytestmark = pytest.mark.browser


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = make_store(tmp_path)
    complete(made, 0, lambda trial: "R")  # the check asks for the left one
    return made


@pytest.fixture
def page(store: Store, browser: Browser) -> Iterator[Page]:
    with serving(store) as address:
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.goto(f"{address}/researcher")
        page.get_by_label("Secret").fill(SECRET)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Progress").wait_for()
        page.wait_for_load_state("load")
        yield page
        page.close()


def test_what_was_missed_and_what_was_too_much_are_two_words(page: Page) -> None:
    checks = page.locator(".facts dd").first.inner_text()
    assert checks == "1 missed 1 (1 too many)"


def test_that_it_is_paused_is_said_once(page: Page) -> None:
    page.get_by_role("button", name="Pause the study").click()
    page.get_by_role("button", name="Resume").wait_for()
    assert page.locator("body").inner_text().lower().count("paused") == 1
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("The study goes on.").wait_for()


def test_a_phone_shows_every_column_of_a_participant(page: Page) -> None:
    table = page.locator("#people-table")
    assert table.evaluate("one => one.scrollWidth <= one.clientWidth")
    before = "(one) => getComputedStyle(one, '::before').content"
    heads = [cell.evaluate(before) for cell in table.locator("tbody tr:first-child td").all()]
    named = ['"Joined"', '"From"', '"Votes"', '"Checks missed"', '"Median vote"']
    assert heads == ["none", "none", *named]
