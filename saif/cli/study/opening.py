"""Opening a published study: its folder holds its versions, and beside them what people did."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saif.errors import StudyError

if TYPE_CHECKING:
    from saif.study.store import Store

StudyFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder that the study was published to.")
]


def open_study(folder: Path) -> "Store":
    """The store of the newest version in `folder`. Raises StudyError where none was published."""
    from saif.study.identities import key_from_environment
    from saif.study.publish import versions
    from saif.study.store import Store

    found = versions(folder)
    if not found:
        raise StudyError(
            f"No study was published to {folder}.",
            hint="Publish one with `python -m saif study publish STUDY.yaml --to DIR`.",
        )
    return Store(folder, found[-1], key_from_environment())
