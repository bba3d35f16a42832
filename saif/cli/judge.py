"""`judge`: a run's replies, graded by another model."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from saif.cli.options import JsonOption, PresetsOption, open_library
from saif.cli.output import console, plain, print_json

if TYPE_CHECKING:
    from saif.core.statistics import Kappa
    from saif.experiments.judge.grades import GradeRecord, RunAgreement


def judge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    url: Annotated[
        str,
        typer.Option(metavar="URL", envvar="SAIF_JUDGE_URL", help="Like https://host/v1."),
    ] = "",
    judge_model: Annotated[
        str,
        typer.Option(metavar="M", envvar="SAIF_JUDGE_MODEL", help="Its name there."),
    ] = "",
    rpm: Annotated[
        float | None, typer.Option("--rpm", metavar="N", help="At most N requests a minute.")
    ] = None,
    price_in: Annotated[
        float | None, typer.Option("--price-in", metavar="P", help="$ per million tokens read.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option("--price-out", metavar="P", help="$ per million written.")
    ] = None,
    presets: PresetsOption = None,
    json: JsonOption = False,
) -> None:
    """Have every reply of a run graded A (followed), B (partly) or C (not) by another model.

    The replies are sent to any OpenAI-compatible endpoint; its key is read from SAIF_JUDGE_KEY.
    Answers are kept, so grading again costs nothing and an interrupted grading goes on.
    """
    from saif.experiments.evaluate.run_folder import RunFolder
    from saif.experiments.judge.grades import agreement_with_verifier
    from saif.experiments.judge.settings import JudgeSettings

    settings = JudgeSettings(
        url=url.strip(),
        model=judge_model.strip(),
        key=os.environ.get("SAIF_JUDGE_KEY", "").strip(),
        per_minute=rpm,
        price_in=price_in,
        price_out=price_out,
    )
    folder = RunFolder.read(run)
    library = open_library(presets)
    # Only now, because they take a second to load.
    from saif.experiments.judge.client import Judge, grade_run
    from saif.progress import bar

    with Judge(settings) as asked, bar() as progress:
        task = progress.add_task("Grading", total=len(folder.replies()))
        grades = grade_run(folder, asked, library, lambda n: progress.advance(task, n))
    spent = {**asdict(asked.spending), "dollars": asked.spending.dollars(settings)}
    agreement = agreement_with_verifier(folder)
    if json:
        counts = _counts(grades)
        found = asdict(agreement) if agreement else None
        print_json({"judge": settings.model, "grades": counts, "spent": spent, "agreement": found})
        return
    screen = console()
    said = ", ".join(f"{name} {number}" for name, number in _counts(grades).items())
    screen.print(plain(f"{settings.model} on {len(grades)} replies: {said}"), soft_wrap=True)
    screen.print(plain(_spent(spent)), soft_wrap=True)
    if agreement:
        screen.print(_table(agreement))


def _counts(grades: "list[GradeRecord]") -> dict[str, int]:
    found = {"A": 0, "B": 0, "C": 0, "ungraded": 0}
    for line in grades:
        found[line.grade or "ungraded"] += 1
    return found


def _spent(spent: dict[str, Any]) -> str:
    words = (
        f"{spent['requests']} requests, {spent['cached']} answers known before, "
        f"{spent['tokens_in']} tokens read and {spent['tokens_out']} written"
    )
    if spent["dollars"] is not None:
        words += f", {'at least ' if spent['uncounted'] else ''}${spent['dollars']:.4f}"
    if spent["uncounted"]:
        words += f" ({spent['uncounted']} answers came without a count of tokens)"
    return words


def _table(found: "RunAgreement") -> Table:
    table = Table(
        "Preset",
        "n",
        "κ loose",
        "κ strict",
        title="Judge and verifier: Cohen's κ, 95 % interval",
        box=SIMPLE_HEAD,
    )
    for name, row in [*found.per_preset.items(), ("all", found.overall)]:
        table.add_row(plain(name), str(row.n), _kappa(row.loose), _kappa(row.strict))
    return table


def _kappa(found: "Kappa | None") -> Text:
    if found is None:
        return plain("undefined")
    within = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return plain(f"{found.value:.2f}{within}")
