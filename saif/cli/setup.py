"""`setup`: whatever is done once per machine, so that the first chat doesn't wait for it."""

import typer

from saif.cli.output import chatter_to_stderr, note


def add_to(app: typer.Typer) -> None:
    app.command(hidden=True)(setup)


def setup() -> None:
    """Convert the embedded model, once. Called by `make setup`."""
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
