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
    steering = state.steering
    steered = next(column.reply for column in state.columns if column.name == "steered")
    if steering.off:
        done = "Not steered: strength 0"
    else:
        latents = steering.latents[steering.layers[0]]
        shown = ", ".join(map(str, latents[:5])) + (", …" if steering.k > 5 else "")
        schedule = f", {steering.schedule}" if str(steering.schedule) else ""
        plural = "latent" if steering.k == 1 else "latents"
        done = (
            f"Steered at {steering.where} with {steering.k} {plural} ({shown}), "
            f"strength {steering.strength:g}, dose {steering.total_dose:.2f}{schedule}, "
            f"{steered.steered} positions ({steering.span})"
        )
    return f"{done}; {state.steps / max(state.seconds, 1e-9):.1f} steps/s."
