"""A participant's page in a real browser: by mouse, by keyboard, on a phone, and in trouble."""

from pathlib import Path

import pytest
from made_up_participants import rows
from playwright.sync_api import Browser, Page, expect
from running_study import FREE, Running, served
from study_bot import WAIT, BrowserBot

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}
HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "![](http://stranger.example/pixel.png)",
    "[click](javascript:alert(1)) $\\href{javascript:alert(1)}{x}$",
    "<svg onload=alert(1)><iframe src='http://stranger.example'></iframe>",
]


def check_of(running: Running) -> int:
    """The place of the attention check, whose answer is the left one."""
    ((place,),) = rows(
        running.store, "SELECT DISTINCT position FROM trial WHERE kind = 'attention'"
    )
    return int(place)


@pytest.mark.parametrize("by_keyboard", [False, True])
def test_a_whole_study_by_mouse_or_by_keyboard_alone(
    running: Running, page: Page, by_keyboard: bool
) -> None:
    bot = BrowserBot(page, f"{running.page}?key=visitor-1", lambda _: "R", by_keyboard=by_keyboard)
    bot.agree()
    bot.choose = lambda place: "L" if place == check_of(running) else "R"
    said = bot.walk()
    assert "You are done" in said
    assert "steered" in said
    assert rows(running.store, "SELECT status FROM participant") == [("complete",)]
    votes = rows(running.store, "SELECT choice, strength, shown_ms, decided_ms FROM vote")
    assert len(votes) == 5
    assert sorted(vote[0] for vote in votes) == ["L", "R", "R", "R", "R"]
    # A check's answers are in the file, so they may be shown within the same millisecond.
    assert all(shown >= 0 and decided > 0 for _, _, shown, decided in votes)
    assert sum(shown > 0 for _, _, shown, _ in votes) >= 4
    kinds = {row[0] for row in rows(running.store, "SELECT kind FROM event")}
    assert kinds >= {"shown", "first_token", "complete", "first_click"}
    assert (bot.problems, bot.strangers) == ([], [])
    assert page.context.cookies() == []
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_both_answers_without_scrolling_sideways(
    running: Running, browser: Browser, scheme: str
) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme, has_touch=True)  # type: ignore[arg-type]
    bot = BrowserBot(context.new_page(), running.page)
    bot.agree()
    bot.vote_is_open()
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert bot.page.evaluate(wide) == 0
    left, right = (bot.page.locator(".answer").nth(i).bounding_box() for i in (0, 1))
    assert left is not None
    assert right is not None
    assert right["y"] >= left["y"] + left["height"]
    option = bot.page.locator(".vote .option").first.bounding_box()
    assert option is not None
    assert option["height"] >= 40  # a fingertip
    context.close()


def test_a_link_without_a_key_gets_one_and_goes_on_after_a_reload(
    running: Running, page: Page
) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    assert "?key=" in page.url
    bot.judge("L")
    bot.vote_is_open()
    before = bot.place()
    page.reload()
    bot.vote_is_open()
    assert bot.place() == before == 2
    assert rows(running.store, "SELECT COUNT(*) FROM participant") == [(1,)]


def test_a_reload_while_answers_are_written_gives_the_comparison_anew(
    running: Running, page: Page
) -> None:
    bot = BrowserBot(page, running.page)
    running.engine.seconds_per_step = 0.3
    bot.agree()
    expect(page.locator(".answer p").first).not_to_be_empty(timeout=WAIT)
    page.reload()
    running.engine.seconds_per_step = 0
    bot.vote_is_open()
    assert bot.place() == 1
    assert rows(running.store, "SELECT void_reason FROM trial WHERE void_reason NOT NULL") == [
        ("interrupted",)
    ]


def test_a_vote_without_a_connection_says_so_and_is_saved_later(
    running: Running, page: Page
) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.vote_is_open()
    page.context.set_offline(True)
    bot.vote("R")
    expect(page.locator("#banner")).to_contain_text("Not saved yet")
    assert "saved" not in page.locator("#trial .state").inner_text()
    assert rows(running.store, "SELECT COUNT(*) FROM vote") == [(0,)]
    page.context.set_offline(False)
    expect(page.locator("#trial .state")).to_contain_text("Your choice is saved", timeout=WAIT)
    expect(page.locator("#banner")).to_be_hidden()
    assert rows(running.store, "SELECT choice FROM vote") == [("R",)]


def test_a_failed_answer_is_told_and_tried_again(running: Running, page: Page) -> None:
    bot = BrowserBot(page, running.page)
    running.engine.fail_at = 2
    bot.agree()
    expect(page.locator("#problem")).to_be_visible(timeout=WAIT)
    assert "neither counts" in page.locator("#problem").inner_text()
    running.engine.fail_at = None
    page.get_by_role("button", name="Try again").click()
    bot.vote_is_open()


def test_the_second_tab_takes_over_and_the_first_can_take_back(
    running: Running, page: Page
) -> None:
    first = BrowserBot(page, f"{running.page}?key=visitor-1")
    first.agree()
    first.vote_is_open()
    second = BrowserBot(page.context.new_page(), first.url)
    second.open()
    second.vote_is_open()
    first.vote("L")
    expect(page.locator("#problem")).to_contain_text("no longer connected", timeout=WAIT)
    page.get_by_role("button", name="Try again").click()
    first.vote_is_open()
    first.judge("L")
    assert rows(running.store, "SELECT COUNT(*) FROM vote") == [(1,)]


def test_a_choice_can_be_changed_and_a_comparison_reported(running: Running, page: Page) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.vote("L")
    bot.practise()
    page.get_by_role("button", name="Change my choice").click()
    bot.judge("R")
    assert rows(running.store, "SELECT choice FROM vote ORDER BY revision") == [("L",), ("R",)]
    bot.vote_is_open()
    page.get_by_text("Something is wrong with this comparison").click()
    page.get_by_label("What is it?").fill("It is rude.")
    page.get_by_role("button", name="Report it").click()
    bot.vote_is_open()
    assert bot.place() == 3
    reported = rows(running.store, "SELECT reason FROM vote WHERE choice = 'skip'")
    assert reported == [("It is rude.",)]


@pytest.mark.parametrize(
    ("label", "status"),
    [("may use what I did", "stale"), ("out of the results", "withdrawn"), ("Erase", "erased")],
)
def test_whoever_stops_is_asked_what_shall_become_of_it(
    running: Running, page: Page, label: str, status: str
) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.judge("L")
    page.get_by_role("button", name="Stop taking part").click()
    dialog = page.locator("#stopping")
    dialog.get_by_text(label).click()
    dialog.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#ended")).to_be_visible(timeout=WAIT)
    assert rows(running.store, "SELECT status FROM participant") == [(status,)]


def test_who_does_not_fit_is_told_after_the_first_questions(tmp_path: Path, page: Page) -> None:
    questions = [
        {"kind": "choice", "id": "adult", "when": "start", "text": "Old enough?",
         "options": ["no", "yes"], "accept": ["yes"]},
        {"kind": "text", "id": "name", "when": "start", "text": "Any name?", "required": False},
    ]  # fmt: skip
    with served(tmp_path, questions=questions) as running:
        bot = BrowserBot(page, running.page)
        bot.open()
        page.get_by_role("button", name="I agree").click()
        page.get_by_label("no", exact=True).check()
        page.get_by_role("button", name="Save my answers").click()
        expect(page.locator("#ended")).to_contain_text("don't match", timeout=WAIT)


def test_who_declines_leaves_no_trace(running: Running, page: Page) -> None:
    bot = BrowserBot(page, running.page)
    bot.open()
    page.get_by_role("button", name="I do not want").click()
    expect(page.locator("#declined")).to_contain_text("Nothing was stored")
    assert rows(running.store, "SELECT COUNT(*) FROM participant") == [(0,)]


def test_while_it_is_paused_the_page_waits_and_goes_on_by_itself(
    running: Running, page: Page
) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.vote("L")
    bot.practise()
    running.store.set_paused(True, actor="tests")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#paused")).to_be_visible(timeout=WAIT)
    running.store.set_paused(False, actor="tests")
    bot.vote_is_open()
    assert bot.place() == 2


def test_what_is_typed_or_answered_is_text_and_never_markup(tmp_path: Path, page: Page) -> None:
    with served(tmp_path, prompts=FREE, trials__practice=0, trials__turns=len(HOSTILE)) as running:
        bot = BrowserBot(page, running.page)
        bot.agree()
        for text in HOSTILE:
            page.get_by_label("Your message").fill(text)
            page.get_by_role("button", name="Send").click()
            expect(page.locator(".message-shown").last).to_contain_text(text[:20], timeout=WAIT)
            page.locator("#trial form.message:visible, #trial form.vote:visible").first.wait_for()
        bot.vote_is_open()
        assert page.locator(".message-shown img, .answer img, main script, iframe").count() == 0
        assert page.title() != "owned"
        assert bot.strangers == []
