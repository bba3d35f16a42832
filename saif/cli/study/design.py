"""`study init`, `check` and `publish`: from an idea to a version that can no longer change."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saif.cli.options import JsonOption, PresetsOption, open_library
from saif.cli.output import console, note, plain, print_json
from saif.provenance import code_commit

if TYPE_CHECKING:
    from saif.study.design.study_file import Study

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file.")]


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to call it.")] = Path(
        "study.yaml"
    ),
    study_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="Names the study; participants see it.")
    ] = "two-answers",
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="What participants see on top.")
    ] = "Which of two answers do you prefer?",
) -> None:
    """Write a study file to start from, with a comment on every part."""
    from saif.study.design.draft import write_draft

    write_draft(file, study_id, title)
    print(file)
    note(f"Change what you need, then: python -m saif study check {file}")


def check(file: StudyFile, presets: PresetsOption = None, json: JsonOption = False) -> None:
    """What is wrong or doubtful about a study; exit status 2 if anything is wrong."""
    from saif.study.design.check import check as findings_of
    from saif.study.design.study_file import read_study

    found = findings_of(read_study(file), open_library(presets))
    if json:
        print_json({"path": str(file), "findings": [asdict(finding) for finding in found]})
    else:
        screen = console()
        for finding in found:
            screen.print(plain(str(finding)), soft_wrap=True)
        wrong = sum(finding.severity == "wrong" for finding in found)
        screen.print(
            f"{file.name}: {wrong} wrong, {len(found) - wrong} doubtful." if found else "OK."
        )
    if any(finding.severity == "wrong" for finding in found):
        raise typer.Exit(2)


def publish(
    file: StudyFile,
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The study's folder; made if need be.")
    ],
    presets: PresetsOption = None,
    json: JsonOption = False,
) -> None:
    """Freeze a study as a version that participants can agree to."""
    from saif.study.design.publish import publish as freeze
    from saif.study.design.study_file import read_study
    from saif.study.store.identities import make_key

    study = read_study(file)
    version, path = freeze(study, open_library(presets), to, code=code_commit())
    key = make_key(study.id)
    link = link_shape(study)
    if json:
        found = {"version": version.number, "id": version.id, "path": str(path), "link": link}
        print_json(found | {"key_file": str(key) if key else None})
        return
    print(path)
    print(f"Version {version.number}, sha256 {version.id}")
    print(f"Participants' link: {link}")
    if key:
        note(f"The key to who is who lies in {key}. Keep a copy apart from the data.")
    note(f"Next: try it with `study simulate {to}`, then `study serve {to}`.")


def link_shape(study: "Study") -> str:
    """The address that participants are sent to; what recruitment services fill in stands in their
    own brackets."""
    host = f"https://YOUR-SERVER/study/{study.id}"
    names = ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID")
    ids = "&".join(f"{name}={{{{%{name}%}}}}" for name in names)
    return {
        "prolific": f"{host}?{ids}",
        "mturk": f"{host} (as an ExternalQuestion; MTurk adds assignmentId, hitId and workerId)",
        "link": f"{host}?key=KEY (another KEY for each participant: 4 to 64 of A-Z a-z 0-9 _ -)",
    }[study.recruitment.kind]
