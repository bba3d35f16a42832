"""`study`: from a YAML file to an analysed data set, one command for each step on the way."""

import typer

from saif.cli.study import analysing, design, running, simulating

group = typer.Typer(help="Run a study with people: design it, serve it, analyse it.")

_COMMANDS = (
    *(design.init, design.check, design.publish),
    *(running.serve, running.status, running.pause, running.resume, running.erase),
    *(running.backup, running.restore, running.verify),
    *(analysing.analyse, analysing.export, simulating.simulate, simulating.power),
)


def add_to(app: typer.Typer) -> None:
    for command in _COMMANDS:
        group.command()(command)
    app.add_typer(group, name="study")
