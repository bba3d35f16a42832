"""Which pictures a run is told by: bars for an evaluation, curves or bars for a sweep."""

import re
from collections.abc import Sequence

from saif.experiments.evaluate.run_folder import RunRecord
from saif.experiments.evaluate.summary import Row
from saif.experiments.report.figures import Bar, Curve, accuracy_bars, sweep_curves
from saif.report.conditions import colour_of, title_of
from saif.report.style import Picture


def charts_of(number: int, record: RunRecord, rows: Sequence[Row]) -> list[Picture]:
    """A picture per preset and placement. number: of the run, for the names of the files."""
    over = record.over or ""
    pictures = []
    places = dict.fromkeys((row.cell.preset, row.cell.placement) for row in rows)
    for count, (preset, placement) in enumerate(places, 1):
        own = [row for row in rows if (row.cell.preset, row.cell.placement) == (preset, placement)]
        title = f"{preset}, {placement}" + (f": {over}" if over else "")
        told = _slug(f"{over or 'accuracy'} {preset} {placement}")
        name = f"{number:02d}-{count:02d}-{told}"  # two presets may differ in a dot only
        swept = [row for row in own if row.cell.value is not None]
        levels = [row for row in own if row.cell.value is None]
        if swept and all(isinstance(row.cell.value, int | float) for row in swept):
            pictures.append(sweep_curves(name, title, over, _curves(swept), levels))
        else:
            pictures.append(accuracy_bars(name, title, [*map(_bar, levels), *map(_bar, swept)]))
    return pictures


def _curves(rows: Sequence[Row]) -> list[Curve]:
    curves = []
    for condition in dict.fromkeys(row.cell.condition for row in rows):
        points = {
            float(row.cell.value): row
            for row in rows
            if row.cell.condition == condition and isinstance(row.cell.value, int | float)
        }
        values = sorted(points)
        curves.append(Curve(condition, values, [points[value] for value in values]))
    return curves


def _bar(row: Row) -> Bar:
    name = title_of(row.cell.condition)
    value = "" if row.cell.value is None else str(row.cell.value)
    label = value if value and row.cell.condition == "steered" else f"{name} {value}".strip()
    return Bar(label, colour_of(row.cell.condition), row)


def _slug(text: str) -> str:
    """Names come from files that anybody may have written; they must not leave the folder."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
