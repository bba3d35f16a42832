"""`setup`: whatever is done once per machine, so that the first chat doesn't wait for it."""

from typing import Annotated

import typer

from saif.cli.output import chatter_to_stderr, note


def add_to(app: typer.Typer) -> None:
    app.command()(setup)


def setup(
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Also compile the decoding step, with the C compiler here."),
    ] = False,
) -> None:
    """Convert the embedded model, once, and make replies faster on a CPU if asked to."""
    _convert()
    if compiled:
        from saif.runtime import compiler

        path = compiler.compile_library()
        note(f"The compiled decoding step is in {path}; whoever decodes on this machine uses it.")


def _convert() -> None:
    from saif.errors import ModelError
    from saif.runtime import embedded

    if embedded.is_converted():
        return
    if embedded.gguf_file() is None:
        raise ModelError(
            f"The package {embedded.PACKAGE} is not installed.",
            hint="Run `make setup`, or choose another model with --model.",
        )
    note("Converting the embedded model; this happens once and takes about a minute …")
    with chatter_to_stderr():
        folder = embedded.converted_folder()
    note(f"The embedded model is ready in {folder}.")
