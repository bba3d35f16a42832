"""Provenance of a result: the command that made it, and the commit of the code."""

import subprocess
import sys
from pathlib import Path


def command_typed() -> str:
    """What was typed, for the record; without the paths that only exist here."""
    words = ["python -m saif"]
    for word in sys.argv[1:]:
        words.append(Path(word).name if "/" in word and Path(word).exists() else word)
    return " ".join(words)


def code_commit() -> str | None:
    """The commit of the checkout that this runs from, `-changed` if files differ from it; None
    where it is no checkout, or there is no git."""
    asked = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = _output_of([*asked, "rev-parse", "HEAD"])
        changed = _output_of([*asked, "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-changed" if changed else commit


def _output_of(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
