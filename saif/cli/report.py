"""`report`: runs as one page."""

from pathlib import Path
from typing import Annotated

import typer

from saif.errors import InputError


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write; `report` in the first run if left out."),
    ] = None,
) -> None:
    """Write one page with the figures, tables and replies of runs; prints where it lies."""
    from saif.experiments.report.build import write_report

    folder = out or runs[0] / "report"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", hint="Give a folder with --out.")
    print(write_report(runs, folder))
