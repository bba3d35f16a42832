"""A study as it is meant to be run: fifty people, three of them in a browser, and its analysis."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from made_up_participants import rows
from playwright.sync_api import Browser
from read_exports import check_sums
from running_study import Running, served
from study_bot import BrowserBot

from saif.study.analysis.analyse import analyse
from saif.study.analysis.data import from_export, from_store
from saif.study.data.export import export

pytestmark = pytest.mark.browser

N, RATE = 50, 0.8
STUDY: dict[str, Any] = {
    "quota__complete": N, "trials__main": 4, "trials__retest": 1,
    "generation__max_new_tokens": 6,
}  # fmt: skip


def choice(running: Running, trial_id: str, rng: random.Random) -> str:
    """The planted preference: for the first arm, which the store knows and the page doesn't."""
    query = "SELECT kind, left_arm FROM trial WHERE trial_id = ?"
    ((kind, left),) = rows(running.store, query, trial_id)
    if kind == "attention":
        return "L"
    prefers_first = rng.random() < RATE
    return "L" if prefers_first == (left == running.store.study.arms[0]) else "R"


def without_a_browser(running: Running, number: int) -> str:
    visitor = running.visitor(f"visitor-{number}")
    rng = random.Random(number)
    visitor.agree(share_text=number % 2 == 0)
    end = visitor.walk(lambda trial: choice(running, trial["id"], rng))
    assert end["status"] == "complete"
    return str(end["completion"]["code"])


def in_a_browser(running: Running, browser: Browser, number: int, **context: Any) -> str:
    page = browser.new_context(**context).new_page()
    rng = random.Random(number)
    bot = BrowserBot(page, f"{running.page}?key=visitor-{number}", by_keyboard=number == 1)
    bot.agree()
    newest = "SELECT participant_id FROM participant ORDER BY created_at DESC LIMIT 1"
    ((who,),) = rows(running.store, newest)
    due = "SELECT trial_id FROM trial WHERE participant_id = ? AND position = ? AND state = 'ready'"

    def choose(place: int) -> str:
        ((trial_id,),) = rows(running.store, due, who, place)
        return choice(running, trial_id, rng)

    bot.choose = choose
    said = bot.walk()
    assert (bot.problems, bot.strangers) == ([], [])
    page.context.close()
    return said


def test_fifty_take_part_and_the_analysis_finds_what_they_prefer(
    tmp_path: Path, browser: Browser
) -> None:
    with served(tmp_path, shared=True, **STUDY) as running:
        phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
        for number, context in enumerate(({}, {}, phone)):
            assert "You are done" in in_a_browser(running, browser, number, **context)
        with ThreadPoolExecutor(6) as pool:
            codes = list(pool.map(lambda i: without_a_browser(running, i), range(3, N)))
        assert len(set(codes)) == N - 3
        refused = running.visitor("one-too-many")
        reply = refused.send(
            "consent", query=refused.query, share_text=False,
            consent_sha256=running.store.version.consent_sha256,
        )  # fmt: skip
        assert "all the participants it needs" in reply.json()["error"]

        found = analyse(from_store(running.store))
        folder = tmp_path / "export"
        export(running.store, folder, actor="tests")
        check_sums(folder)
    for format in ("csv", "jsonl", "parquet"):
        again = analyse(from_export(folder, format=format))
        assert again.presets == found.presets
        assert again.models == found.models
    assert (folder / "codebook.md").exists()
    (preset,) = found.presets
    share = preset.share
    assert share.low is not None
    assert share.high is not None
    assert 0.5 < share.low < RATE < share.high
    assert (share.n_participants, share.n_votes) == (N, 4 * N)
    assert found.quality is not None
