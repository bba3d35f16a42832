"""`study serve`: open a published study to its participants."""

from typing import Annotated

import typer

from saif.cli.options import PresetsOption, open_library
from saif.cli.output import chatter_to_stderr, note
from saif.cli.study.opening import StudyFolder

HostOption = Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for everybody.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535)]


def serve(
    folder: StudyFolder,
    host: HostOption = "127.0.0.1",
    port: PortOption = 7860,
    presets: PresetsOption = None,
) -> None:
    """Serve a published study to its participants, until Ctrl+C."""
    with chatter_to_stderr():
        from saif.study.server.serve import open_to_participants

        open_to_participants(folder, open_library(presets), host, port, say=note)
