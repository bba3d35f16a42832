"""Scripts that go into an export and redo its main estimate from `trials.csv`, without saif."""

from pathlib import Path

SCRIPTS = ("analysis.py", "analysis.R")


def script(name: str) -> bytes:
    """The script as it is written into an export."""
    return (Path(__file__).parent / name).read_bytes()
