"""Figures of a run: bars for an evaluation, curves for a sweep, pre against post.

Each is a PNG with its text alternative. The same numbers give the same bytes.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from saif.core.statistics import PairedTable
from saif.experiments.evaluate.comparison import p_value, percent, signed, with_interval
from saif.experiments.evaluate.run_folder import RunRecord
from saif.experiments.evaluate.summary import Row
from saif.report.conditions import shown, title_of
from saif.report.plots import heading, row_label, row_value, rows
from saif.report.style import INK, SOFT, Picture, Sheet, darker, paler


def accuracy_figures(number: int, record: RunRecord, found: Sequence[Row]) -> list[Picture]:
    """A figure per preset and placement. number: of the run, for the names of the files."""
    over = record.over or ""
    pictures = []
    for count, (preset, placement) in enumerate(
        dict.fromkeys((row.cell.preset, row.cell.placement) for row in found), 1
    ):
        own = [row for row in found if (row.cell.preset, row.cell.placement) == (preset, placement)]
        title = f"{preset}, {placement}" + (f": {over}" if over else "")
        slug = _slug(f"{over or 'accuracy'} {preset} {placement}")
        name = f"{number:02d}-{count:02d}-{slug}"  # two presets may differ in a dot only
        swept = [row for row in own if row.cell.value is not None]
        levels = [row for row in own if row.cell.value is None]
        if swept and all(isinstance(row.cell.value, int | float) for row in swept):
            pictures.append(_sweep_curve(name, title, over, swept, levels))
        else:
            pictures.append(_accuracy_bars(name, title, [*levels, *swept]))
    return pictures


def _slug(text: str) -> str:
    """Names come from files that anybody may have written; they must not leave the folder."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def _accuracy_bars(name: str, title: str, found: Sequence[Row]) -> Picture:
    """A bar per setting: how many replies followed, and inside it how many are strict."""
    height = 78 + 27 * len(found)
    told = []
    with Sheet(title, height, left=132, right=52) as sheet:
        axes = sheet.axes
        for place, row in enumerate(found):
            colour = shown(row.cell.condition).colour
            followed, strict = 100 * row.followed.value, 100 * row.strict.value
            low, high = (100 * value for value in row.followed.wilson())
            axes.barh(place, followed, height=0.66, color=paler(colour), linewidth=0)
            axes.barh(place, strict, height=0.26, color=darker(colour), linewidth=0)
            axes.errorbar(
                followed, place, xerr=[[max(0.0, followed - low)], [max(0.0, high - followed)]],
                color=INK, elinewidth=0.9, capsize=2.2, capthick=0.9,
            )  # fmt: skip
            axes.text(106, place, f"{followed:.0f} %", va="center", clip_on=False)
            told.append(
                f"{_setting(row)} {with_interval(row.followed)}, strict {percent(row.strict)}"
            )
        rows(axes, len(found))
        axes.set_yticks(range(len(found)), [_setting(row) for row in found])
        ns = sorted({row.n for row in found})
        counts = f"n = {ns[0]}" if len(ns) == 1 else f"n = {ns[0]} to {ns[-1]}"
        sheet.percent_axis("x", f"replies that followed, %; dark: strict ({counts})")
        alt = f"Bar chart, {title}: replies that followed. {'; '.join(told)}."
        return Picture(name, alt, sheet.png(), height)


def _setting(row: Row) -> str:
    """The condition, or the value that a sweep gave it."""
    value = "" if row.cell.value is None else str(row.cell.value)
    if value and row.cell.condition == "steered":
        return value
    return f"{title_of(row.cell.condition)} {value}".strip()


def _sweep_curve(
    name: str, title: str, over: str, swept: Sequence[Row], levels: Sequence[Row]
) -> Picture:
    """Followed over the swept numbers, with its interval as a band. levels: what doesn't depend on
    them, as dashed lines. Dotted: degenerate replies."""
    height = 300
    found = sorted(swept, key=lambda row: float(row.cell.value or 0))
    values = [float(row.cell.value or 0) for row in found]
    with Sheet(title, height, left=52, right=118) as sheet:
        axes = sheet.axes
        colour = shown(found[0].cell.condition).colour
        shares = [100 * row.followed.value for row in found]
        lows, highs = zip(*(row.followed.wilson() for row in found), strict=True)
        axes.fill_between(
            values, [100 * low for low in lows], [100 * high for high in highs],
            color=colour, alpha=0.16, linewidth=0,
        )  # fmt: skip
        axes.plot(values, shares, "-o", color=colour, linewidth=1.8, markersize=4)
        labels = [(shares[-1], title_of(found[0].cell.condition), colour)]
        degenerate = [100 * row.degenerate.value for row in found]
        axes.plot(values, degenerate, ":", color=SOFT, linewidth=1.3)
        labels.append((degenerate[-1], "degenerate", SOFT))
        for row in levels:
            level, colour = 100 * row.followed.value, shown(row.cell.condition).colour
            axes.axhline(level, color=colour, linestyle=(0, (5, 3)), linewidth=1.2)
            labels.append((level, title_of(row.cell.condition), colour))
        _label_lines(axes, labels)
        if values[0] > 0 and values[-1] / values[0] > 8:
            axes.set_xscale("log")
            axes.minorticks_off()
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xlabel(f"{over}; dotted: degenerate", fontsize=8)
        axes.margins(x=0.03)
        sheet.percent_axis("y", "replies that followed, %")
        curve = ", ".join(
            f"{value:g}: {with_interval(row.followed)}"
            for value, row in zip(values, found, strict=True)
        )
        told = [f"{title_of(found[0].cell.condition)}: {curve}"]
        told += [f"{title_of(row.cell.condition)} {with_interval(row.followed)}" for row in levels]
        alt = f"Curve over {over}, {title}: replies that followed. {'; '.join(told)}."
        return Picture(name, alt, sheet.png(), height)


def _label_lines(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the right end of each line, moved apart where they would overlap."""
    line_height = 7.0  # of a line of text, in per cent of the axis
    places: list[float] = []
    ordered = sorted(labels, key=lambda label: label[0])
    for level, _, _ in ordered:
        places.append(max(level, places[-1] + line_height) if places else max(level, 0.0))
    overshoot = max(0.0, places[-1] - 100)
    for at, (level, text, colour) in zip(places, ordered, strict=True):
        axes.annotate(
            f"{text} {level:.0f} %", xy=(1, level), xycoords=("axes fraction", "data"),
            xytext=(1.03, at - overshoot), textcoords=("axes fraction", "data"),
            color=darker(colour), va="center", fontsize=7.5, annotation_clip=False,
        )  # fmt: skip


class PlacementPair(NamedTuple):
    """One preset and condition at both placements."""

    preset: str
    condition: str
    table: PairedTable
    """Post is first, pre second."""


def pre_post_figure(number: int, pairs: Sequence[PlacementPair]) -> Picture:
    """A line from pre (hollow) to post (filled) for each preset and condition."""
    title = "After the content (post) against before it (pre)"
    lines: list[PlacementPair | str] = []
    for preset in dict.fromkeys(pair.preset for pair in pairs):
        lines += [preset, *(pair for pair in pairs if pair.preset == preset)]
    height = 84 + 23 * len(lines)
    told = []
    with Sheet(title, height, left=126, right=104) as sheet:
        axes = sheet.axes
        for place, line in enumerate(lines):
            if isinstance(line, str):
                heading(axes, place, line)
                continue
            _dumbbell(axes, place, line)
            told.append(
                f"{line.preset}, {title_of(line.condition)}: pre {percent(line.table.second)}, "
                f"post {percent(line.table.first)}, {p_value(line.table.p)}"
            )
        rows(axes, len(lines), margin=0.4)
        sheet.percent_axis("x", "replies that followed, %; hollow: pre, filled: post")
        alt = f"Dumbbell chart, {title}. {'; '.join(told)}."
        return Picture(f"{number:02d}-pre-post", alt, sheet.png(), height)


def _dumbbell(axes: Axes, place: int, pair: PlacementPair) -> None:
    table, colour = pair.table, shown(pair.condition).colour
    post, pre = 100 * table.first.value, 100 * table.second.value
    axes.plot([pre, post], [place, place], color=colour, linewidth=2.2, alpha=0.6, zorder=2)
    axes.plot(
        pre, place, "o", color="white", markeredgecolor=colour, markeredgewidth=1.6, clip_on=False
    )
    axes.plot(post, place, "o", color=colour, clip_on=False)
    row_label(axes, place, title_of(pair.condition))
    sure = table.p < 0.05
    words = f"{signed(table.difference)}, {p_value(table.p)}"
    row_value(axes, place, words, strong=sure, weight="bold" if sure else "normal")
