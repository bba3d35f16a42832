"""Progress: bars with the time left on stderr, so that stdout stays for results, and counts for
whoever else wants to hear."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

Part = Literal["prompts", "layers", "replies"]
"""Prompts are read, latents of layers identified, replies made and judged."""

Heard = Callable[[Part, int], None]
"""Hears how many more of a part are done. What it raises ends the work."""


def nobody(part: Part, n: int) -> None:
    """Where nobody listens."""


def bar() -> Progress:
    """A progress bar to use in a `with`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar. `total` is only needed for what has no length."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with bar() as progress:
        yield from progress.track(items, total=total, description=label)
