"""The researcher's page in Chromium: it can be used, keeps itself fresh, and asks nobody else."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_participants import Clock, complete, make_store, person
from playwright.sync_api import Browser, Page
from researcher_server import SECRET, serving
from stored_votes import flow

from saif.study.participation.steps import begin, call_off
from saif.study.store.store import Store

pytestmark = pytest.mark.browser

XSS = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = make_store(tmp_path, Clock(), quota__complete=6)
    for number in range(3):
        complete(made, number)
    token = made.enrol(person("unhappy"), share_text=False).token
    trial = begin(made, token)
    assert trial is not None
    call_off(made, token, trial.trial_id, "failed", XSS)
    return made


@pytest.fixture
def page(store: Store, browser: Browser) -> Iterator[Page]:
    with serving(store) as address:
        found = browser.new_page(viewport={"width": 1280, "height": 900})
        found.set_default_timeout(10_000)
        complaints: list[str] = []
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.on("request", lambda request: complaints.extend(
            [] if request.url.startswith((address, "data:")) else [request.url]))  # fmt: skip
        found.goto(f"{address}/researcher")
        yield found
        found.close()
        assert complaints == []


def log_in(page: Page) -> None:
    page.get_by_label("Secret").fill(SECRET)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Progress").wait_for()
    page.wait_for_load_state("load")  # with its style


def test_one_logs_in_and_out_by_keyboard(page: Page) -> None:
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    assert "not the secret" in page.get_by_role("alert").inner_text()
    log_in(page)
    page.get_by_role("button", name="Log out").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Secret").wait_for()


def test_the_figures_keep_themselves_fresh(page: Page, store: Store) -> None:
    log_in(page)
    page.get_by_text("called off or reported").click()
    assert page.title() != "owned"
    assert page.get_by_text(XSS).is_visible()
    complete(store, "meanwhile")
    page.get_by_text("hidden until 2 more").wait_for()
    assert page.get_by_text(XSS).is_visible()  # what was open stays open
    assert page.evaluate("document.activeElement.id") == "incidents-title"
    store.set_paused(True, actor="someone")
    page.get_by_role("button", name="Resume").wait_for()


def test_the_study_is_stopped_with_one_press(page: Page, store: Store) -> None:
    log_in(page)
    page.get_by_role("button", name="Pause the study").click()
    page.get_by_text("Nobody joins").wait_for()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause the study").wait_for()


def test_a_participant_is_erased_and_an_export_downloaded(page: Page, store: Store) -> None:
    log_in(page)
    name = complete(store, "goes")
    page.get_by_label("Receipt or participant").fill(store.receipt(name))
    page.get_by_label("Erase for good").check()
    page.get_by_label("I am sure").check()
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_text(f"Participant {name} is erased.").wait_for()
    assert flow(store)["erased"] == 1
    page.get_by_label("Why now?").fill("To try it.")
    with page.expect_download() as started:
        page.get_by_role("button", name="Download").click()
    content = Path(started.value.path()).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        assert any(each.endswith("trials.csv") for each in packed.namelist())


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    log_in(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
