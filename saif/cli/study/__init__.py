"""`study`: from a YAML file to an analysed data set, one command for each step on the way."""

import typer

from saif.cli.study import analysing, data, design, serving, simulating

group = typer.Typer(help="Run a study with people: design it, serve it, analyse it.")


def add_to(app: typer.Typer) -> None:
    group.command()(design.init)
    group.command()(design.check)
    group.command()(design.publish)
    group.command()(serving.serve)
    group.command()(data.status)
    group.command()(data.pause)
    group.command()(data.resume)
    group.command()(data.erase)
    group.command()(data.backup)
    group.command()(data.restore)
    group.command()(data.verify)
    analysing.add_to(group)
    simulating.add_to(group)
    app.add_typer(group, name="study")
