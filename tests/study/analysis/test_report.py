"""The report: one page that asks for nothing from outside, runs nothing, and says it in words."""

import json
import re
from pathlib import Path

import pytest
from made_up_data import data_of, empty_row, trial_rows
from made_up_votes import planted

from saif.study.analysis.analyse import analyse, as_json
from saif.study.analysis.report import NUMBERS, PAGE, flow_steps, render, write_page
from saif.study.analysis.results import Analysis
from saif.study.data.unblinding import Look

ATTACK = "<script>alert('x')</script><img src=http://evil.example/a.png onerror=alert(1)>"


def attacked(seed: int = 1) -> Analysis:
    """An analysis with an attack wherever somebody may have typed it."""
    rows = trial_rows(planted(seed, 12, 4, 0.7, ties=0.2))
    responses = [
        empty_row("responses", participant="p1", item="remarks", value=json.dumps(ATTACK)),
        empty_row("responses", participant="p1", item=f"fluent@{rows[4]['trial']}", value="3"),
    ]
    data = data_of(
        rows, responses=responses, title=f"Title {ATTACK}"[:120],
        preference__strength=[ATTACK[:100], "$x^2$"], looks=[Look("2026", 3, ATTACK)],
    )  # fmt: skip
    return analyse(data, texts=True)


def test_nothing_runs_and_nothing_is_asked_from_outside() -> None:
    page = render(attacked())
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in page
    assert "<script" not in page.lower()
    assert not re.search(r"<[^>]*\son\w+\s*=", page)
    # No address anywhere in markup or style: pictures are in the page itself.
    for found in re.findall(r"""(?:src|href|action|data)\s*=\s*["']?([^"'\s>]+)""", page):
        assert found.startswith(("#", "data:image/png;base64,", "http://evil.example"))
    for tag in re.findall(r"<[^>]+>", page):
        assert "evil.example" not in tag
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_page_says_at_its_top_what_was_found_and_what_limits_it() -> None:
    found = attacked()
    page = render(found)
    top = page[page.index("<body>") : page.index('id="presets"')]
    assert "Estimated: the mean over participants" in top
    assert "95 % interval" in top
    assert "Test of no preference: t(" in top
    assert "What limits this" in top
    assert page.count('class="summary"') == 1


def test_every_picture_has_words_for_who_cannot_see_it() -> None:
    page = render(attacked())
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) == 4  # strengths were never asked for in these votes
    for picture in pictures:
        alt = re.search(r'alt="([^"]+)"', picture)
        assert alt
        assert re.search(r"\d", alt.group(1))


def test_the_numbers_lie_beside_the_page_and_the_same_study_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    found = attacked()
    page = write_page(found, tmp_path / "a" / "b")
    assert page == tmp_path / "a" / "b" / PAGE
    numbers = json.loads((page.parent / NUMBERS).read_text("utf-8"))
    assert numbers == json.loads(as_json(found))
    again = write_page(attacked(), tmp_path / "c")
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.parametrize("people", [0, 1, 2])
def test_there_is_a_page_for_hardly_any_votes(people: int) -> None:
    votes = planted(1, people, 2, 0.7) if people else []
    page = render(analyse(data_of(trial_rows(votes))))
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower().replace("finance", "")
    assert "Not fitted." in page


def test_the_flow_adds_up() -> None:
    statuses = {"a": "stale", "b": "withdrawn", "c": "erased", "d": "active", "e": "screened"}
    found = analyse(data_of(trial_rows(planted(1, 4, 2, 0.6)), statuses=statuses))
    first, finished, kept = flow_steps(found.quality.flow)
    assert first[1] - sum(n for _, n in first[2]) == finished[1] == 4
    assert finished[1] - sum(n for _, n in finished[2]) == kept[1]
