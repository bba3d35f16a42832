"""A participant's page says what is so, in words that stay true, and asks before it is too late."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_participants import rows
from playwright.sync_api import Browser, Page, expect
from running_study import QUESTIONS, Running, served
from study_bot import WAIT, BrowserBot

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
PROLIFIC = {
    "kind": "prolific", "complete": "C0MPLETE", "screened_out": "SCREEN0UT",
    "no_consent": "NOC0NSENT", "partial": "PARTIAL1",
}  # fmt: skip
QUERY = "?PROLIFIC_PID=5f0123456789abcdef012345"


@pytest.fixture
def recruited(tmp_path: Path) -> Iterator[Running]:
    with served(tmp_path, recruitment=PROLIFIC, questions=[], trials__retest=0) as running:
        yield running


def pressed(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).locator("visible=true").click()


def erase(page: Page, *, sure: bool = True) -> None:
    if not page.locator("#withdraw form").is_visible():
        page.locator("#withdraw summary").click()
    page.locator("#withdraw").get_by_text("Erase everything I did").click()
    pressed(page, "Withdraw")
    page.locator("#erasing").get_by_role(
        "button", name="Erase everything" if sure else "Don’t"
    ).click()


# The end


def test_the_last_page_gives_code_and_receipt_and_keeps_the_code_after_erasing(
    recruited: Running, page: Page
) -> None:
    bot = BrowserBot(page, f"{recruited.page}{QUERY}")
    bot.agree()
    said = bot.walk()
    end = page.locator("#ended")
    ((who,),) = rows(recruited.store, "SELECT participant_id FROM participant")
    for text in ("C0MPLETE", recruited.store.receipt(who), recruited.page):
        assert text in said
    page.reload()
    expect(end).to_be_visible(timeout=WAIT)
    erase(page, sure=False)
    assert rows(recruited.store, "SELECT status FROM participant") == [("complete",)]
    erase(page)
    expect(end.locator(".sentence")).to_contain_text("has been erased", timeout=WAIT)
    assert "C0MPLETE" in end.inner_text()
    assert "You are done" not in end.inner_text()
    assert recruited.store.receipt(who) not in end.inner_text()
    assert rows(recruited.store, "SELECT status FROM participant") == [("erased",)]
    assert bot.problems == []  # neither after the reload, nor after the erasure


def test_a_code_is_copied_with_one_press(recruited: Running, browser: Browser) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    bot = BrowserBot(page, f"{recruited.page}{QUERY}")
    bot.agree()
    pressed(page, "Stop taking part")
    page.locator("#stopping").get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#ended")).to_be_visible(timeout=WAIT)
    ((who,),) = rows(recruited.store, "SELECT participant_id FROM participant")
    for place, code in (".way-out", "PARTIAL1"), (".receipt-to-keep", recruited.store.receipt(who)):
        page.locator(place).get_by_role("button", name="Copy").locator("visible=true").click()
        page.wait_for_function("code => navigator.clipboard.readText().then((t) => t === code)",
                               arg=code)  # fmt: skip
    context.close()


def test_withdrawing_half_way_in_the_footer_leads_to_the_last_page(
    recruited: Running, page: Page
) -> None:
    bot = BrowserBot(page, f"{recruited.page}{QUERY}")
    bot.agree()
    bot.vote_is_open()
    erase(page)
    expect(page.locator("#ended")).to_contain_text("has been erased", timeout=WAIT)
    assert "PARTIAL1" in page.locator("#ended").inner_text()


@pytest.mark.parametrize("while_it", ["waits", "streams"])
def test_nothing_replaces_the_last_page(running: Running, page: Page, while_it: str) -> None:
    bot = BrowserBot(page, running.page)
    if while_it == "streams":
        running.engine.seconds_per_step = 0.3
    bot.agree()
    if while_it == "streams":
        expect(page.locator(".answer p").first).not_to_be_empty(timeout=WAIT)
    else:
        bot.vote_is_open()
        running.store.set_paused(True, actor="tests")
        page.reload()
        expect(page.locator("#paused")).to_be_visible(timeout=WAIT)
    pressed(page, "Stop taking part")
    page.locator("#stopping").get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#ended")).to_be_visible(timeout=WAIT)
    page.wait_for_timeout(6000)  # longer than the page waits before it asks again
    assert page.locator("#ended").is_visible()
    assert bot.problems == []


def test_who_does_not_fit_is_thanked_and_told_nothing(tmp_path: Path, page: Page) -> None:
    screen = {"kind": "choice", "id": "adult", "when": "start", "text": "Old enough?",
              "options": ["no", "yes"], "accept": ["yes"]}  # fmt: skip
    with served(tmp_path, recruitment=PROLIFIC, questions=[screen]) as running:
        BrowserBot(page, f"{running.page}{QUERY}").open()
        pressed(page, "I agree")
        page.get_by_label("no", exact=True).check()
        pressed(page, "Save my answers")
        end = page.locator("#ended")
        expect(end).to_contain_text("SCREEN0UT", timeout=WAIT)
        assert "steered" not in end.inner_text()


# The beginning


def test_the_bare_address_is_no_failure_and_lets_withdraw(recruited: Running, page: Page) -> None:
    visitor = recruited.visitor(PROLIFIC_PID=QUERY[-24:])
    visitor.agree()
    bot = BrowserBot(page, recruited.page)
    bot.open()
    expect(page.locator("#unknown")).to_contain_text("Prolific")
    pressed(page, "Withdraw")
    expect(page.locator("#withdraw .state")).to_contain_text("Please give your receipt")
    page.get_by_label("Receipt").fill(visitor.receipt)
    erase(page)
    expect(page.locator("#withdraw .state")).to_contain_text("has been erased", timeout=WAIT)
    assert page.locator("#unknown").is_visible()
    assert bot.problems == []


def test_a_study_that_is_paused_says_so_before_anyone_agrees(
    recruited: Running, page: Page
) -> None:
    recruited.store.set_paused(True, actor="tests")
    BrowserBot(page, f"{recruited.page}{QUERY}").open()
    closed = page.locator("#closed")
    expect(closed).to_contain_text("paused")
    expect(closed).to_contain_text("return the submission")
    recruited.store.set_paused(False, actor="tests")
    pressed(page, "Look again")
    expect(page.locator("#consent")).to_be_visible(timeout=WAIT)
    recruited.store.set_paused(True, actor="tests")  # meanwhile
    pressed(page, "I agree")
    expect(closed).to_be_visible(timeout=WAIT)


def test_who_declines_gets_one_instruction(recruited: Running, page: Page) -> None:
    BrowserBot(page, f"{recruited.page}{QUERY}").open()
    pressed(page, "I do not want")
    declined = page.locator("#declined")
    expect(declined).to_be_visible(timeout=WAIT)
    link = declined.get_by_role("link", name="Go back to Prolific")
    assert "cc=NOC0NSENT" in str(link.get_attribute("href"))
    assert "return the submission" not in declined.inner_text()
    assert "Your code" not in declined.inner_text()


# Votes


def test_a_saved_choice_is_named_and_can_be_kept(running: Running, page: Page) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.vote("L")
    bot.practise()
    saved = "Your choice is saved: Answer A (left), better."
    state = page.locator("#trial .state")
    expect(state).to_have_text(saved.replace("left", "leftfirst"))  # one of the two is not shown
    assert state.inner_text() == saved
    pressed(page, "Change my choice")
    expect(state).to_be_empty()
    pressed(page, "Keep it")
    assert state.inner_text() == saved
    pressed(page, "Change my choice")
    page.reload()
    bot.vote_is_open()
    assert bot.place() == 2
    assert rows(running.store, "SELECT choice, revision FROM vote") == [("L", 1)]
    assert rows(running.store, "SELECT COUNT(*) FROM response") == [(0,)]


def test_a_changed_choice_has_its_questions_asked_with_nothing_chosen(
    tmp_path: Path, page: Page
) -> None:
    with served(tmp_path, trials__practice=0) as running:
        bot = BrowserBot(page, running.page)
        bot.agree()
        questions = page.locator("#trial form.questions")
        for choice in "LR":
            bot.vote(choice)
            expect(questions).to_be_visible(timeout=WAIT)
            assert questions.locator("input:checked").count() == 0
            questions.locator("input[value='4']").check()
            pressed(page, "Save my answers")
            if choice == "L":
                pressed(page, "Change my choice")
        pressed(page, "Next")
        expect(page.locator("#trial h2")).to_contain_text("2 of", timeout=WAIT)
        assert rows(running.store, "SELECT revision, value_json FROM response") == [
            (1, "4"),
            (2, "4"),
        ]


def test_what_is_missing_is_told_on_the_page(running: Running, page: Page) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.vote_is_open()
    pressed(page, "Save my choice")
    expect(page.locator("#trial form.vote")).to_contain_text("still to be answered")
    bot.vote("R")
    expect(page.locator("#trial .state")).to_contain_text("saved", timeout=WAIT)


def test_a_report_is_confirmed_even_while_answers_are_written(running: Running, page: Page) -> None:
    bot = BrowserBot(page, running.page)
    running.engine.seconds_per_step = 0.3
    bot.agree()
    expect(page.locator(".answer p").first).not_to_be_empty(timeout=WAIT)
    page.get_by_text("Something is wrong with this comparison").click()
    pressed(page, "Report it")
    running.engine.seconds_per_step = 0
    expect(page.locator("#notice")).to_contain_text("Your report is saved", timeout=WAIT)
    bot.vote_is_open()
    assert bot.place() == 2
    bot.judge("L")
    expect(page.locator("#notice")).to_be_hidden(timeout=WAIT)
    assert page.locator("#problem").is_hidden()


def test_whether_an_answer_was_cut_off_is_told_in_the_same_words_for_all(
    running: Running, page: Page
) -> None:
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.vote_is_open()
    stops = {row[0] for row in rows(running.store, "SELECT stop_reason FROM generation")}
    assert "length" in stops
    said = page.locator("#trial .state").inner_text()
    assert said == "Both answers have ended; long ones are cut off."


@pytest.mark.parametrize("width", [390, 1280])
def test_a_check_is_no_comparison_and_its_left_is_on_the_left(
    running: Running, browser: Browser, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800})
    page = context.new_page()
    bot = BrowserBot(page, running.page)
    bot.agree()
    bot.judge("R")
    bot.judge("R")
    bot.vote_is_open()
    assert page.locator("#trial h2").inner_text() == "Question 3 of 5"
    left, right = (page.locator(f".vote .option:has([value={side}])").bounding_box()
                   for side in "LR")  # fmt: skip
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["y"] - right["y"]) < 1
    assert "on the left" in page.locator(".vote .option").first.inner_text()
    context.close()


# On a phone


def test_on_a_phone_nothing_below_is_called_left_and_a_scale_is_one_row(
    tmp_path: Path, browser: Browser
) -> None:
    scale = {**QUESTIONS[0], "points": 11}
    context = browser.new_context(viewport=PHONE)  # type: ignore[arg-type]
    with served(tmp_path, trials__practice=0, questions=[scale]) as running:
        bot = BrowserBot(context.new_page(), running.page)
        bot.agree()
        bot.vote_is_open()
        words = bot.page.locator("#trial").inner_text()
        assert "Answer A (first)" in words
        assert "left" not in words
        bot.vote("L")
        steps = bot.page.locator("#trial .steps .option")
        expect(steps).to_have_count(11, timeout=WAIT)
        boxes = [step.bounding_box() for step in steps.all()]
        assert len({box["y"] for box in boxes if box}) == 1
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert bot.page.evaluate(wide) == 0
    context.close()


def test_the_title_is_the_largest_heading_and_the_contact_is_a_link(
    running: Running, page: Page
) -> None:
    BrowserBot(page, running.page).open()
    size = "one => parseFloat(getComputedStyle(one).fontSize)"
    assert page.locator("h1").evaluate(size) > page.locator("#consent h2").evaluate(size)
    link = page.get_by_role("link", name=running.store.study.ethics.contact)
    assert str(link.get_attribute("href")).startswith("mailto:")


def test_while_it_is_paused_leaving_is_not_what_the_page_suggests(
    running: Running, page: Page
) -> None:
    BrowserBot(page, running.page).agree()
    running.store.set_paused(True, actor="tests")
    page.reload()
    leave = page.get_by_role("button", name="Leave the study")
    expect(leave).to_have_class("plain", timeout=WAIT)
