"""All commands in one application."""

import typer

from saif import __version__
from saif.cli import presets, study
from saif.cli.bench import bench
from saif.cli.compare import compare
from saif.cli.doctor import doctor
from saif.cli.experiments import calibrate, identify, train_sae
from saif.cli.failures import FailuresInWords
from saif.cli.judge import judge
from saif.cli.measure import evaluate, sweep
from saif.cli.models import models
from saif.cli.report import report
from saif.cli.setup import setup

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


for command in (
    compare,
    models,
    doctor,
    setup,
    train_sae,
    identify,
    calibrate,
    evaluate,
    sweep,
    judge,
    report,
    bench,
):
    app.command()(command)
app.add_typer(presets.group, name="presets")
study.add_to(app)


def main() -> None:
    """The console script: the same commands as `python -m saif`."""
    app(prog_name="saif")
