"""Drawings of a run: bars, curves and dumbbells as PNGs, each with its text alternative.

What is drawn; `saif.report.style` knows how. The same numbers give the same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from saif.core.statistics import PairedTable
from saif.experiments.evaluate.comparison import p_value, percent, signed, with_interval
from saif.experiments.evaluate.summary import Row
from saif.report.conditions import colour_of, title_of
from saif.report.style import INK, SOFT, Picture, Sheet, beside, darker, paler


@dataclass(frozen=True, slots=True)
class Bar:
    label: str
    colour: str
    row: Row


@dataclass(frozen=True, slots=True)
class Curve:
    """One condition over the swept values, in rising order."""

    condition: str
    values: Sequence[float]
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Dumbbell:
    """One preset and condition at both placements. table: post is first, pre second."""

    preset: str
    condition: str
    table: PairedTable


def accuracy_bars(name: str, title: str, bars: Sequence[Bar]) -> Picture:
    """A bar per setting: how many replies followed, and inside it how many are strict."""
    height = 78 + 27 * len(bars)
    with Sheet(title, height, left=132, right=52) as sheet:
        axes = sheet.axes
        for place, bar in enumerate(bars):
            _bar(axes, place, bar)
        axes.set_ylim(len(bars) - 0.45, -0.55)
        axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
        ns = sorted({bar.row.n for bar in bars})
        counts = f"n = {ns[0]}" if len(ns) == 1 else f"n = {ns[0]} to {ns[-1]}"
        sheet.percent_axis("x", f"replies that followed, %; dark: strict ({counts})")
        return Picture(name, _bars_in_words(title, bars), sheet.png(), height)


def _bar(axes: Axes, place: int, bar: Bar) -> None:
    followed, strict = 100 * bar.row.followed.value, 100 * bar.row.strict.value
    low, high = (100 * value for value in bar.row.followed.wilson())
    axes.barh(place, followed, height=0.66, color=paler(bar.colour), linewidth=0)
    axes.barh(place, strict, height=0.26, color=darker(bar.colour), linewidth=0)
    axes.errorbar(
        followed,
        place,
        xerr=[[max(0.0, followed - low)], [max(0.0, high - followed)]],
        color=INK,
        elinewidth=0.9,
        capsize=2.2,
        capthick=0.9,
    )
    axes.text(106, place, f"{followed:.0f} %", va="center", clip_on=False)


def _bars_in_words(title: str, bars: Sequence[Bar]) -> str:
    told = [
        f"{bar.label} {with_interval(bar.row.followed)}, strict {percent(bar.row.strict)}"
        for bar in bars
    ]
    return f"Bar chart, {title}: replies that followed. {'; '.join(told)}."


def sweep_curves(
    name: str, title: str, over: str, curves: Sequence[Curve], levels: Sequence[Row]
) -> Picture:
    """Followed over what was swept, with its interval as a band. levels: what doesn't depend on
    it, as dashed lines. Dotted: degenerate replies of the first curve."""
    height = 300
    with Sheet(title, height, left=52, right=118) as sheet:
        axes = sheet.axes
        labels = [_curve(axes, curve) for curve in curves]
        first = curves[0]
        degenerate = [100 * row.degenerate.value for row in first.rows]
        axes.plot(first.values, degenerate, ":", color=SOFT, linewidth=1.3)
        labels.append((degenerate[-1], "degenerate", SOFT))
        for row in levels:
            level, colour = 100 * row.followed.value, colour_of(row.cell.condition)
            axes.axhline(level, color=colour, linestyle=(0, (5, 3)), linewidth=1.2)
            labels.append((level, title_of(row.cell.condition), colour))
        _label_lines(axes, labels)
        _value_axis(axes, over, sorted({value for curve in curves for value in curve.values}))
        sheet.percent_axis("y", "replies that followed, %")
        return Picture(name, _curves_in_words(title, over, curves, levels), sheet.png(), height)


def _curve(axes: Axes, curve: Curve) -> tuple[float, str, str]:
    """Draws it; returns what to write where it ends."""
    colour = colour_of(curve.condition)
    shares = [100 * row.followed.value for row in curve.rows]
    bands = [row.followed.wilson() for row in curve.rows]
    lows, highs = [100 * low for low, _ in bands], [100 * high for _, high in bands]
    axes.fill_between(curve.values, lows, highs, color=colour, alpha=0.16, linewidth=0)
    axes.plot(curve.values, shares, "-o", color=colour, linewidth=1.8, markersize=4)
    return shares[-1], title_of(curve.condition), colour


def _label_lines(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the right end of each line, moved apart where they would overlap."""
    room = 7.0  # per cent of the axis that a line of text takes
    places: list[float] = []
    ordered = sorted(labels, key=lambda label: label[0])
    for level, _, _ in ordered:
        places.append(max(level, places[-1] + room) if places else max(level, 0.0))
    overshoot = max(0.0, places[-1] - 100)
    for at, (level, text, colour) in zip(places, ordered, strict=True):
        axes.annotate(
            f"{text} {level:.0f} %",
            xy=(1, level),
            xycoords=("axes fraction", "data"),
            xytext=(1.03, at - overshoot),
            textcoords=("axes fraction", "data"),
            color=darker(colour),
            va="center",
            fontsize=7.5,
            annotation_clip=False,
        )


def _value_axis(axes: Axes, over: str, values: Sequence[float]) -> None:
    if values[0] > 0 and values[-1] / values[0] > 8:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xlabel(f"{over}; dotted: degenerate", fontsize=8)
    axes.margins(x=0.03)


def _curves_in_words(title: str, over: str, curves: Sequence[Curve], levels: Sequence[Row]) -> str:
    told = []
    for curve in curves:
        points = [
            f"{value:g}: {with_interval(row.followed)}"
            for value, row in zip(curve.values, curve.rows, strict=True)
        ]
        told.append(f"{title_of(curve.condition)}: {', '.join(points)}")
    told += [f"{title_of(row.cell.condition)} {with_interval(row.followed)}" for row in levels]
    return f"Curve over {over}, {title}: replies that followed. {'; '.join(told)}."


def pre_post_dumbbells(name: str, title: str, dumbbells: Sequence[Dumbbell]) -> Picture:
    """A line from pre (hollow) to post (filled) for each preset and condition."""
    lines: list[Dumbbell | str] = []
    for dumbbell in dumbbells:
        if not lines or _preset_of(lines[-1]) != dumbbell.preset:
            lines.append(dumbbell.preset)
        lines.append(dumbbell)
    height = 84 + 23 * len(lines)
    with Sheet(title, height, left=126, right=104) as sheet:
        axes = sheet.axes
        for place, line in enumerate(lines):
            if isinstance(line, str):
                axes.text(-0.52, place, line, transform=beside(axes), weight="bold", va="center")
            else:
                _dumbbell(axes, place, line)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_yticks([])
        sheet.percent_axis("x", "replies that followed, %; hollow: pre, filled: post")
        return Picture(name, _dumbbells_in_words(title, dumbbells), sheet.png(), height)


def _preset_of(line: "Dumbbell | str") -> str:
    return line if isinstance(line, str) else line.preset


def _dumbbell(axes: Axes, place: int, dumbbell: Dumbbell) -> None:
    table, colour = dumbbell.table, colour_of(dumbbell.condition)
    post, pre = 100 * table.first.value, 100 * table.second.value
    axes.plot([pre, post], [place, place], color=colour, linewidth=2.2, alpha=0.6, zorder=2)
    axes.plot(
        pre, place, "o", color="white", markeredgecolor=colour, markeredgewidth=1.6, clip_on=False
    )
    axes.plot(post, place, "o", color=colour, clip_on=False)
    margin = beside(axes)
    axes.text(-0.04, place, title_of(dumbbell.condition), transform=margin, ha="right", va="center")
    words = f"{signed(table.difference)}, {p_value(table.p)}"
    sure = table.p < 0.05
    axes.text(
        1.05,
        place,
        words,
        transform=margin,
        va="center",
        fontsize=8,
        color=INK if sure else SOFT,
        weight="bold" if sure else "normal",
    )


def _dumbbells_in_words(title: str, dumbbells: Sequence[Dumbbell]) -> str:
    told = [
        f"{one.preset}, {title_of(one.condition)}: pre {percent(one.table.second)}, "
        f"post {percent(one.table.first)}, {p_value(one.table.p)}"
        for one in dumbbells
    ]
    return f"Dumbbell chart, {title}. {'; '.join(told)}."
