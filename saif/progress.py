"""Progress: bars with the time left on stderr, where no result is printed, and listeners."""

from collections.abc import Callable, Iterator, Sequence
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
"""What is counted: prompts run, layers whose latents are identified, replies made and checked."""

ProgressListener = Callable[[Part, int], None]
"""Is told how many more of a part are done. What it raises ends the work."""


def ignore_progress(part: Part, n: int) -> None:
    """The listener where none is given."""


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


def track(items: Sequence[T], label: str) -> Iterator[T]:
    """Iterate with a bar."""
    with bar() as progress:
        yield from progress.track(items, description=label)
