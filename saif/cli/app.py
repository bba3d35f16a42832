"""All commands in one application."""

import typer

from saif import __version__
from saif.cli import (
    bench,
    compare,
    doctor,
    experiments,
    judge,
    measure,
    models,
    presets,
    report,
    setup,
    study,
)
from saif.cli.failures import FailuresInWords

app = typer.Typer(
    cls=FailuresInWords,
    help="Steer a chat model with instruction latents of a sparse autoencoder.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        print(f"saif {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


for group in (
    compare,
    presets,
    models,
    doctor,
    setup,
    experiments,
    measure,
    judge,
    report,
    bench,
    study,
):
    group.add_to(app)


def main() -> None:
    """The console script: the same commands as `python -m saif`."""
    app(prog_name="saif")
