"""Where output goes: results on stdout, everything else on stderr."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.text import Text

from saif.core.types import NO_CONTROL_CODES


def console() -> Console:
    """For results that a person reads. Built anew, because tests and pipes replace stdout."""
    return Console(highlight=False, soft_wrap=False)


def print_json(document: object) -> None:
    """The one JSON document of a command, as one line."""
    encoding = (sys.stdout.encoding or "ascii").lower()
    print(json.dumps(document, ensure_ascii="utf" not in encoding, allow_nan=False))


def plain(text: str) -> Text:
    """Text from a model or a file: markup stays text, and no control code reaches the terminal."""
    return Text(text.translate(NO_CONTROL_CODES))


def note(sentence: str) -> None:
    """A line for the person who waits; not a result."""
    print(sentence, file=sys.stderr)


@contextlib.contextmanager
def working(sentence: str) -> Iterator[Callable[[str], None]]:
    """Show `sentence` on a terminal while the block runs; nothing in a pipe or a log. The block is
    given what shows another sentence instead."""
    stderr = Console(stderr=True)
    if not stderr.is_terminal:
        yield lambda _: None
        return
    with stderr.status(sentence) as shown:
        yield shown.update


@contextlib.contextmanager
def chatter_to_stderr() -> Iterator[None]:
    """What libraries print inside the block can't spoil the result on stdout."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
