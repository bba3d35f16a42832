"""What a test may do and see at the page; where the browser is."""

import os
import shutil
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
PATIENCE_MS = 120_000


def missing_browser() -> str:
    """Why there is nothing to drive the page with; "" if there is."""
    return "" if os.access(CHROMIUM, os.X_OK) else f"no Chromium at {CHROMIUM}"


@dataclass
class Screen:
    """The page in one browser tab, with everything it complained about and asked for."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, browser: Browser, url: str, *, width: int = 1280, height: int = 800) -> "Screen":
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(PATIENCE_MS)
        screen = cls(context.new_page(), url)
        screen._listen()
        screen.page.goto(url)
        screen.message.wait_for()
        screen.page.locator("#dose .readout").wait_for(state="attached")  # the panel is filled in
        return screen

    def _listen(self) -> None:
        home = urlsplit(self.url).netloc
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: self.complaints.append(said.text) if said.type == "error" else None,
        )

        def note(address: str) -> None:
            parts = urlsplit(address)
            if parts.scheme not in ("data", "blob") and parts.netloc != home:
                self.strangers.add(address)

        self.page.on("request", lambda request: note(request.url))
        self.page.on("websocket", lambda socket: note(socket.url))

    @property
    def message(self) -> Locator:
        return self.page.locator("#message textarea")

    @property
    def notice(self) -> Locator:
        return self.page.locator("#notice .notice")

    def send(self, text: str, *, wait: bool = True) -> None:
        self.message.fill(text)
        self.message.press("Enter")
        self.page.locator("#stop").wait_for()
        if wait:
            self.wait()

    def retry(self) -> None:
        self.page.locator("#retry").click()
        self.page.locator("#stop").wait_for()
        self.wait()

    def wait(self) -> None:
        """Until the turn is over."""
        self.page.locator("#send").wait_for()

    def asked(self, column: str) -> list[str]:
        return self.page.locator(f'#chat-{column} [data-testid="user"]').all_inner_texts()

    def replies(self, column: str) -> list[str]:
        """What was said, without the captions."""
        bots = self.page.locator(f'#chat-{column} [data-testid="bot"]')
        return [text for text in bots.filter(has_not=self._caption()).all_inner_texts() if text]

    def caption(self, column: str) -> list[str]:
        return self.page.locator(f"#chat-{column} .reply-caption").all_inner_texts()

    def _caption(self) -> Locator:
        return self.page.locator(".reply-caption")

    def reply(self, column: str) -> str:
        return self.replies(column)[-1]

    def length(self, column: str) -> int:
        """Characters of the last reply so far; 0 before there is one."""
        replies = self.replies(column)
        return len(replies[-1]) if replies else 0

    def set_strength(self, value: float) -> None:
        box = self.page.get_by_label("number input for Strength")
        box.fill(str(value))
        box.press("Enter")
        box.blur()
        self.page.locator("#dose").get_by_text("Off." if value == 0 else "Dose").wait_for()

    def unfold(self, fold: str) -> None:
        self.page.locator(f"#{fold} > button").click()

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def wait_until_served(app: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and app.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("app.py did not serve the page")
