"""Opening a study from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from saif.study.store.store import Store

StudyFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder that the study was published to.")
]


def open_study(folder: Path, *, to_look: bool = False) -> "Store":
    """As `saif.study.opening.open_study`, which loads only when a command runs."""
    from saif.study.opening import open_study as opened

    return opened(folder, to_look=to_look)
