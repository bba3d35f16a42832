"""`study serve`, `status`, `pause`, `resume`, `erase`, `backup`, `restore`, `verify`: a published
study and what people gave."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from saif.cli.options import JsonOption, PresetsOption, open_library
from saif.cli.output import chatter_to_stderr, console, note, plain, print_json

if TYPE_CHECKING:
    from saif.study.data.monitoring import Status
    from saif.study.store.store import Store

StudyFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder that the study was published to.")
]

RESEARCHER = "researcher"
"""Who the audit trail says it was."""


def open_study(folder: Path, *, to_look: bool = False) -> "Store":
    """As `saif.study.opening.open_study`, which loads only when a command runs."""
    from saif.study.opening import open_study as opened

    return opened(folder, to_look=to_look)


def serve(
    folder: StudyFolder,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for everybody.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    presets: PresetsOption = None,
) -> None:
    """Serve a published study to its participants, until Ctrl+C."""
    with chatter_to_stderr():
        from saif.study.server.serve import open_to_participants

        open_to_participants(folder, open_library(presets), host, port, say=note)


def status(folder: StudyFolder, json: JsonOption = False) -> None:
    """How a study is going: counts and quality, never its outcome."""
    from saif.study.data.monitoring import status as status_of

    found = status_of(open_study(folder, to_look=True))
    if json:
        print_json(asdict(found) | {"missing": found.missing})
        return
    screen = console()
    screen.print(plain(f"{found.title} ({found.study}, version {found.version})"), style="bold")
    if found.purged_at:
        screen.print(f"All data were deleted when they were due, {found.purged_at}.")
    if found.paused:
        screen.print("Paused: nobody joins and no comparison begins.", style="bold")
    screen.print(_table(found))
    for trouble in found.troubles:
        told = "Trouble with {job} since {since}: {problem}".format_map(trouble)
        screen.print(plain(told), soft_wrap=True)


def _table(found: "Status") -> Table:
    table = Table(show_header=False, box=None)
    for name, n in found.participants.items():
        table.add_row(name, str(n))
    rows = {
        "still to finish": f"{found.missing} of {found.target}",
        "places left": str(found.places_left),
        "comparisons called off": _counts(found.void),
        "comparisons reported": str(found.reported),
        "attention checks missed": _counts(
            {f"{missed} by": n for missed, n in found.missed_checks.items()}
        ),
        "missed too many": str(found.too_many_missed),
        "median time to a vote": _unless_none(found.decision_ms, 1000, "s"),
        "median time to the end": _unless_none(found.minutes, 1, "min"),
        "last backup": found.last_backup or "none",
        "waiting to be copied": "no remote copy"
        if found.uncopied is None
        else f"{found.uncopied} participants",
        "to be deleted": found.delete_at or "not before somebody joins",
    }
    for name, value in rows.items():
        table.add_row(name, plain(value))
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def _unless_none(value: float | None, per_unit: float, unit: str) -> str:
    return "none yet" if value is None else f"{value / per_unit:.1f} {unit}"


def pause(folder: StudyFolder) -> None:
    """Stop: nobody joins and no comparison begins, until you resume. Those in it may vote."""
    open_study(folder).set_paused(True, actor=RESEARCHER)
    print("Paused.")


def resume(folder: StudyFolder) -> None:
    """Go on after a pause."""
    open_study(folder).set_paused(False, actor=RESEARCHER)
    print("Resumed.")


def erase(
    folder: StudyFolder,
    who: Annotated[
        str, typer.Argument(metavar="RECEIPT|PARTICIPANT", help="A receipt or a random id.")
    ],
    only_leave_out: Annotated[
        bool, typer.Option("--only-leave-out", help="Of the analysis; the data stay.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Erase all that a participant gave, down to the last byte, also in backups."""
    from saif.study.durability.erasure import withdraw

    store = open_study(folder)
    name = store.of_receipt(who) if "-" in who else who
    with store.database.snapshot() as db:
        known = store.by_id(db, name)
    what = "Leave out" if only_leave_out else "Erase for good"
    asked = f"{what} participant {known.id} ({known.status})?"
    if not yes and not typer.confirm(asked, err=True):
        note("Nothing was changed.")
        raise typer.Exit(1)
    withdraw(store, known.id, "analysis" if only_leave_out else "erase", actor=RESEARCHER)
    print(f"{'Left out' if only_leave_out else 'Erased'}: {known.id}")
    if not only_leave_out:
        note("Exports that were made before still hold these data: delete them yourself.")


def backup(folder: StudyFolder) -> None:
    """Copy a study's data, also while people take part, and read the copy back."""
    from saif.study.durability.backup import backup as copy_of

    print(copy_of(open_study(folder)))


def restore(
    copy: Annotated[Path, typer.Argument(metavar="BACKUP", help="A study-….db of a backup.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="A folder without data.")],
) -> None:
    """Make a study's folder of a backup. Nothing is overwritten."""
    from saif.study.durability.backup import restore as unpack

    unpack(copy, to)
    print(to)
    note("To be served, it needs the key that the study was begun with.")


def verify(folder: StudyFolder, json: JsonOption = False) -> None:
    """Check that the files are sound and the audit trail is whole."""
    from saif.study.store.audit import verify as walk

    store = open_study(folder, to_look=True)
    store.database.check()
    store.identities.check()
    with store.database.snapshot() as db:
        head = walk(db)
    if json:
        print_json({"ok": True, "seq": head.seq, "sha": head.sha})
    else:
        print(f"OK: {head.seq} entries, the last with sha256 {head.sha}")
