"""The columns of a comparison in a terminal: streaming side by side, then printed for good."""

from collections.abc import Iterable
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from saif.cli.output import console, plain

if TYPE_CHECKING:
    from saif.chat import ColumnState, TurnState

_NARROWEST = 24
"""Characters a column needs; where there is less room the columns stand below each other."""


def show(states: "Iterable[TurnState]") -> None:
    """Draw the states as they come and leave the last one on the screen, whole."""
    screen = console()
    last = None
    # Transient, because a live display cuts off what is taller than the screen.
    with Live(console=screen, refresh_per_second=8, transient=True) as live:
        for state in states:
            last = state
            live.update(_draw(state.columns, screen.width))
    if last is not None:
        screen.print(_draw(last.columns, screen.width))
        screen.print(plain(what_was_done(last)), style="dim")


def _draw(columns: "tuple[ColumnState, ...]", width: int) -> RenderableType:
    if width < _NARROWEST * len(columns):
        heads = [Rule(column.name, align="left") for column in columns]
        texts = [plain(column.reply.text) for column in columns]
        return Group(*(part for pair in zip_longest(heads, texts) for part in pair if part))
    table = Table(expand=True, padding=(0, 1))
    for column in columns:
        table.add_column(Text(column.name), ratio=1, overflow="fold")
    table.add_row(*(plain(column.reply.text) for column in columns))
    return table


def what_was_done(state: "TurnState") -> str:
    """How the steered column was steered and what it cost, in one line."""
    applied = state.applied
    steered = next(column.reply for column in state.columns if column.name == "steered")
    if applied.strength == 0:
        done = "Not steered: strength 0"
    else:
        shown = ", ".join(map(str, applied.latents[:5]))
        more = ", …" if len(applied.latents) > 5 else ""
        shape = f", {applied.shape}" if str(applied.shape) else ""
        plural = "latent" if applied.k == 1 else "latents"
        done = (
            f"Steered at {applied.where} with {applied.k} {plural} ({shown}{more}), "
            f"strength {applied.strength:g}, dose {applied.dose:.2f}{shape}, "
            f"{steered.steered} positions ({applied.span})"
        )
    return f"{done}; {state.steps / max(state.seconds, 1e-9):.1f} steps/s."
