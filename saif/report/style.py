"""Plot style: the sheet figures are drawn on, with size, fonts, colours and axes, as a PNG.

Nothing here touches pyplot, which keeps figures in a global.
"""

import io
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

WIDTH = 460
"""Of every picture, in CSS pixels; drawn with twice as many."""

INK, SOFT = "#1c2430", "#5b6675"
_GRID = "#e3e7ec"
_TOP, _BOTTOM = 34, 44  # CSS pixels around the axes
_CSS_DPI = 96
_STYLE: Any = {  # matplotlib's own type for these names every parameter there is
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    # A dollar sign in a name is a dollar sign.
    "text.parse_math": False,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": INK,
    "figure.facecolor": "white",
}


def darker(colour: str) -> str:
    """A shade of the colour that is readable as text on white."""
    red, green, blue = (0.62 * part for part in to_rgb(colour))
    return to_hex((red, green, blue))


def paler(colour: str) -> str:
    """A tint that something darker can be drawn on."""
    red, green, blue = (1 - 0.62 * (1 - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure as it goes onto a page."""

    name: str
    """Of its file, without an ending."""
    alt: str
    png: bytes
    height: int
    """In CSS pixels."""


class Sheet:
    """A white sheet with one set of axes. left, right: margins in CSS pixels."""

    def __init__(self, title: str, height: int, *, left: int, right: int) -> None:
        self._size = (WIDTH / _CSS_DPI, height / _CSS_DPI)
        self._title = title
        self._frame = (
            left / WIDTH,
            _BOTTOM / height,
            (WIDTH - left - right) / WIDTH,
            (height - _TOP - _BOTTOM) / height,
        )
        self._open = ExitStack()

    def __enter__(self) -> "Sheet":
        # A person's own matplotlibrc must not change a report.
        self._open.enter_context(mpl.rc_context())
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        self._figure = Figure(figsize=self._size, dpi=2 * _CSS_DPI)
        self.axes = self._figure.add_axes(self._frame)
        for side in ("top", "right", "left"):
            self.axes.spines[side].set_visible(False)
        self.axes.tick_params(length=0)
        self.axes.set_axisbelow(True)
        self._figure.text(
            0.02, 1 - 12 / (_CSS_DPI * self._size[1]), self._title, weight="bold", va="center"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def percent_axis(self, which: Literal["x", "y"], label: str) -> None:
        """0 to 100, with room for a marker at either end."""
        axis = self.axes.xaxis if which == "x" else self.axes.yaxis
        set_limits = self.axes.set_xlim if which == "x" else self.axes.set_ylim
        set_limits(-2, 102)
        axis.set_ticks(range(0, 101, 25))
        axis.grid(visible=True, color=_GRID, linewidth=0.8)
        axis.set_label_text(label, fontsize=8)

    def png(self) -> bytes:
        file = io.BytesIO()
        # Without metadata, so that another version of matplotlib is no difference by itself.
        self._figure.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()
