"""What the README says is what the files say."""

import re
from pathlib import Path

from saif.cli.scoreboard import scoreboard
from saif.presets.library import Library
from saif.runtime.embedded import MODEL_ID

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_score_table_is_the_shipped_presets_scores() -> None:
    library = Library()
    cards = [library.card(MODEL_ID, name) for name in library.preset_ids(MODEL_ID)]
    table = re.search(r"<!-- scores -->\n(.*?)\n<!-- /scores -->", README, re.DOTALL)
    assert table is not None
    assert table.group(1) == scoreboard(cards)


def test_every_file_the_readme_names_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    folders = [name for name in re.findall(r"`((?:saif|presets|docs)/[\w/.]*)`", README)]
    missing = [name for name in [*links, *folders] if not (ROOT / name).exists()]
    assert not missing
    assert links


def test_presets_stay_small_enough_for_a_space() -> None:
    total = sum(path.stat().st_size for path in Library().root.rglob("*") if path.is_file())
    assert total < 80_000_000
