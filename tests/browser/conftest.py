import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from look import CHROMIUM, missing_browser
from playwright.sync_api import Browser, Page, sync_playwright
from running_study import Running, served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Without one its tests are skipped, or fail where they are required. For a module
    only: playwright keeps an event loop running, which tests of other modules want to run."""
    if missing := missing_browser():
        if os.environ.get("SAIF_REQUIRE_BROWSER") == "1":
            pytest.fail(f"Browser tests are required, but there is {missing}.", pytrace=False)
        pytest.skip(f"Browser tests skipped: {missing}.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with served(tmp_path) as running:
        yield running
