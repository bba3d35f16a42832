"""`study analyse` and `study export`: what people gave, as a result and as files."""

from dataclasses import asdict
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saif.cli.options import JsonOption
from saif.cli.output import console, note, plain, print_json, working
from saif.cli.study.running import RESEARCHER, StudyFolder, open_study
from saif.errors import StudyError

if TYPE_CHECKING:
    from saif.study.analysis.data import StudyData
    from saif.study.analysis.results import Analysis

ActorOption = Annotated[
    str, typer.Option("--actor", metavar="NAME", help="Who the audit trail says it was.")
]

UnblindOption = Annotated[
    str | None,
    typer.Option(
        metavar="REASON",
        help="Look before the planned number is complete; it is written down and reported.",
    ),
]


def analyse(
    source: Annotated[
        Path, typer.Argument(metavar="DIR|EXPORT", help="A study's folder, or an export of one.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For the report (default: SOURCE-analysis)."),
    ] = None,
    unblind: UnblindOption = None,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality", help="Only how good the data are, which may be seen at any time."
        ),
    ] = False,
    texts: Annotated[
        bool, typer.Option("--texts", help="Quote what participants answered in words.")
    ] = False,
    actor: ActorOption = RESEARCHER,
    json: JsonOption = False,
) -> None:
    """Analyse a study: prints what was found and what limits it, and writes a report."""
    from saif.study.analysis.analyse import analyse as analysis_of
    from saif.study.analysis.quality import quality as quality_of
    from saif.study.analysis.report import write_page
    from saif.study.analysis.wording import quality_in_words
    from saif.study.data.export import check_new

    if quality:
        seen = quality_of(_read(source, None, texts=False, actor=actor)[0])
        if json:
            print_json(asdict(seen))
            return
        for sentence in quality_in_words(seen):
            console().print(plain(sentence), soft_wrap=True)
        return
    if out is not None:
        check_new(out)
    with working("Analysing …"):
        data, looked = _read(source, unblind, texts=texts, actor=actor)
        found = analysis_of(data, looked=looked, texts=texts)
        page = write_page(found, out or beside(source))
    if json:
        print_json(asdict(found) | {"page": str(page)})
    else:
        show(found)
        print(page)


def _read(
    source: Path, unblind: str | None, *, texts: bool, actor: str
) -> "tuple[StudyData, bool]":
    """The data, and whether an early look was noted just now."""
    from saif.study.analysis.data import from_export, from_store
    from saif.study.data.export import SUMS
    from saif.study.data.unblinding import look

    if not source.is_dir():
        raise StudyError(f"There is no folder {source}.")
    store = None if (source / SUMS).exists() else open_study(source, to_look=True)
    noted = look(store, unblind, actor=actor) if store and unblind is not None else None
    if unblind is not None and noted is None:
        note("The outcome is not hidden, so no early look was noted.")
    data = from_store(store, texts=texts) if store else from_export(source)
    return data, noted is not None


def show(found: "Analysis") -> None:
    """What was found and what limits it, on the terminal."""
    screen = console()
    screen.print(plain(f"{found.title} ({found.study})"), style="bold")
    for sentence in found.summary:
        screen.print(plain(sentence), soft_wrap=True)
    screen.print("\nWhat limits this", style="bold")
    for sentence in found.limits:
        screen.print(plain(f"- {sentence}"), soft_wrap=True)
    screen.print()


def beside(source: Path) -> Path:
    """Where a report goes unless told otherwise: an export must not be added to, and an earlier
    report stays."""
    first = Path(f"{source.resolve()}-analysis")
    later = (Path(f"{first}-{number}") for number in count(2))
    return next(path for path in chain([first], later) if not path.exists())


def export(
    folder: StudyFolder,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="A folder that is new.")],
    profile: Annotated[
        Literal["full", "deidentified", "public"],
        typer.Option(
            help="deidentified: nothing that was typed; public: that of those who agreed."
        ),
    ] = "deidentified",
    unblind: UnblindOption = None,
    actor: ActorOption = RESEARCHER,
) -> None:
    """Write a study's data as CSV, JSON lines and Parquet, with a codebook; prints the checksums'
    file. The audit trail notes it."""
    from saif.study.data.export import check_new
    from saif.study.data.export import export as write
    from saif.study.data.unblinding import look

    store = open_study(folder, to_look=True)
    check_new(out)  # before a look is noted that nobody gets
    look(store, unblind, actor=actor)
    print(write(store, out, profile=profile, actor=actor))
