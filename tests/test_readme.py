"""What the README says is what the files say."""

import re
from pathlib import Path

from saif.cli.scoreboard import scoreboard
from saif.presets.library import Library
from saif.presets.preset import Preset
from saif.runtime.embedded import MODEL_ID

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def shipped_cards() -> list[Preset]:
    library = Library()
    return [library.card(MODEL_ID, name) for name in library.preset_ids(MODEL_ID)]


def test_the_score_table_is_the_shipped_presets_scores() -> None:
    document = (ROOT / "docs/presets.md").read_text("utf-8")
    table = re.search(r"<!-- scores -->\n(.*?)\n<!-- /scores -->", document, re.DOTALL)
    assert table is not None
    assert table.group(1) == scoreboard(shipped_cards())


def test_the_readme_sums_the_scores_up() -> None:
    scores = [part.scores for card in shipped_cards() for part in card.placements.values()]

    def percents(condition: str) -> list[int]:
        rows = [each.condition(condition) for each in scores if each is not None]
        return [round(100 * row.loose.value) for row in rows if row is not None]

    steered, prompted = percents("steered"), percents("prompted")
    assert f"{min(steered)} to {max(steered)} % of steered replies" in README
    assert f"{min(prompted)} to {max(prompted)} % of prompted ones" in README
    assert f"at most {max(percents('unsteered'))} % of unsteered ones" in README


def test_every_file_that_a_document_names_exists() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = document.read_text("utf-8")
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
        named = re.findall(r"`((?:saif|presets|docs|examples)/[\w/.]*)`", text)
        missing = [name for name in links if not (document.parent / name).exists()]
        missing += [name for name in named if not (ROOT / name).exists()]
        assert not missing, document.name


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 100


def test_presets_stay_small_enough_for_a_space() -> None:
    total = sum(path.stat().st_size for path in Library().root.rglob("*") if path.is_file())
    assert total < 80_000_000
