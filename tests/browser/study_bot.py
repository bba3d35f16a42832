"""A participant with a browser: by mouse, or by keyboard alone."""

import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

WAIT = 30_000


class BrowserBot:
    """Walks through a study's page. choose: from a trial's place to a choice. by_keyboard: never
    touches the mouse. What went wrong on the page is in `problems`, other hosts in `strangers`."""

    def __init__(
        self,
        page: Page,
        url: str,
        choose: Callable[[int], str] = lambda place: "L",
        *,
        by_keyboard: bool = False,
    ) -> None:
        self.page = page
        self.url = url
        self.choose = choose
        self.by_keyboard = by_keyboard
        self.problems: list[str] = []
        self.strangers: list[str] = []
        host = re.match(r"https?://[^/]+", url)
        assert host is not None
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "console",
            lambda said: self.problems.append(said.text) if said.type == "error" else None,
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((host.group(), "data:"))
                else self.strangers.append(request.url)
            ),
        )

    def open(self) -> None:
        self.page.goto(self.url)
        expect(self.page.locator("#loading")).to_be_hidden(timeout=WAIT)

    def press(self, target: Locator) -> None:
        """A click, or the keys that do the same."""
        if not self.by_keyboard:
            target.click()
            return
        for _ in range(80):
            if target.evaluate("one => one === document.activeElement"):
                break
            if target.evaluate(
                "one => one.type === 'radio' && one.name === document.activeElement.name"
            ):
                self.page.keyboard.press("ArrowDown")
            else:
                self.page.keyboard.press("Tab")
        else:
            raise AssertionError(f"{target} can't be reached with the keyboard")
        if target.evaluate("one => one.type !== 'radio' || !one.checked"):
            self.page.keyboard.press("Space" if self._is_field(target) else "Enter")

    @staticmethod
    def _is_field(target: Locator) -> bool:
        return bool(target.evaluate("one => one.tagName === 'INPUT'"))

    def agree(self) -> None:
        self.open()
        self.press(self.page.get_by_role("button", name="I agree"))
        expect(self.page.locator("#trial")).to_be_visible(timeout=WAIT)

    def vote_is_open(self) -> None:
        expect(self.page.locator("#trial form.vote")).to_be_visible(timeout=WAIT)

    def vote(self, choice: str) -> None:
        self.vote_is_open()
        form = self.page.locator("#trial form.vote")
        self.press(form.locator(f"input[name=choice][value={choice}]"))
        clearly = form.locator("input[name=clearly][value='2']")
        if clearly.is_visible():
            self.press(clearly)
        self.press(form.get_by_role("button", name="Save my choice"))

    def judge(self, choice: str) -> None:
        """The comparison that is on the page, and the questions on it."""
        self.vote(choice)
        either = self.page.locator("#trial form.questions:visible, #trial .next:visible").first
        expect(either).to_be_visible(timeout=WAIT)
        questions = self.page.locator("#trial form.questions")
        if questions.is_visible():
            scale = questions.locator("input[value='4']")
            if scale.count():
                self.press(scale.first)
            self.press(questions.get_by_role("button"))
        following = self.page.get_by_role("button", name="Next")
        expect(following).to_be_visible(timeout=WAIT)
        self.press(following)

    def practise(self) -> None:
        """The questions on a practice comparison, none of which need be answered."""
        self.page.locator("#trial form.questions").get_by_role("button").click()

    def place(self) -> int:
        """Of the comparison or the check that is on the page."""
        found = re.search(r"(\d+) of", self.page.locator("#trial h2").inner_text())
        assert found is not None
        return int(found.group(1))

    def walk(self) -> str:
        """To the end; what the last page says."""
        last = 0
        while True:
            here = self.page.locator("#trial form.vote:visible, #questions:visible, #ended:visible")
            expect(here.first).to_be_visible(timeout=WAIT)
            if self.page.locator("#ended").is_visible():
                return self.page.locator("#ended").inner_text()
            if self.page.locator("#questions").is_visible():
                self._last_questions()
                continue
            assert self.place() > last, "the same comparison came twice"
            last = self.place()
            self.judge(self.choose(last))

    def _last_questions(self) -> None:
        form = self.page.locator("#questions form")
        self.press(form.locator("input[value=unsure]"))
        remarks = form.locator("textarea")
        if self.by_keyboard:
            remarks.focus()
            self.page.keyboard.type("None.")
        else:
            remarks.fill("None.")
        self.press(form.get_by_role("button", name="Save my answers"))
        expect(self.page.locator("#questions")).to_be_hidden(timeout=WAIT)
