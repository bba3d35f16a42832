"""Plot primitives that figures share: rows of labelled marks on a sheet, and their headings."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from saif.report.style import INK, SOFT


def rows(axes: Axes, n: int, *, margin: float = 0.45) -> None:
    """`n` rows from top to bottom at y = 0, 1, …, without ticks."""
    axes.set_ylim(n - margin, margin - 1)
    axes.set_yticks([])


def heading(axes: Axes, place: float, text: str) -> None:
    """A group's name at the left edge of the sheet; a long one may run into the axes."""
    shown = text if len(text) < 60 else f"{text[:58]}…"
    axes.annotate(
        shown, xy=(0, place), xycoords=("figure fraction", "data"), xytext=(9, 0),
        textcoords="offset points", va="center", weight="bold", annotation_clip=False,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip


def row_label(axes: Axes, place: float, text: str, *, strong: bool = True) -> None:
    """What a row is, to the left of the axes."""
    _beside(axes, -0.04, place, text, ha="right", color=INK if strong else SOFT)


def row_value(axes: Axes, place: float, text: str, *, strong: bool = True, **font: Any) -> None:
    """A row's number in words, to the right of the axes."""
    _beside(axes, 1.04, place, text, fontsize=8, color=INK if strong else SOFT, **font)


def _beside(axes: Axes, x: float, place: float, text: str, **font: Any) -> None:
    """x as a share of the axes' width, y in data."""
    where = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(x, place, text, transform=where, va="center", **font)
