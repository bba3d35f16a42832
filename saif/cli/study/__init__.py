"""`study`: from a YAML file to an analysed data set, one command for each step on the way."""

import typer

from saif.cli.study import serving

group = typer.Typer(help="Run a study with people: design it, serve it, analyse it.")


def add_to(app: typer.Typer) -> None:
    group.command()(serving.serve)
    app.add_typer(group, name="study")
