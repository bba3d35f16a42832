"""Report of runs: one page to read, print and pass on, without script, request or date."""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from saif.core.statistics import Kappa
from saif.errors import InputError
from saif.experiments.claims import claims
from saif.experiments.evaluate.comparison import (
    bounds,
    p_value,
    post_against_pre,
    signed,
    stratum,
)
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord, RunFolder
from saif.experiments.evaluate.summary import Row, gather, summaries
from saif.experiments.judge.grades import agreement_with_verifier
from saif.experiments.report.baseline_comparison import (
    compare_with_baselines,
    shortfall,
    summary_sentence,
)
from saif.experiments.report.figures import PlacementPair, accuracy_figures, pre_post_figure
from saif.files import replace_file
from saif.report.conditions import rank_of, shown, title_of
from saif.report.page import page_environment
from saif.report.style import WIDTH

PAGE = "report.html"
N_TEXTS = 3
"""Whose replies are shown, of each preset."""


def write_report(folders: Sequence[Path], out: Path) -> Path:
    """Write the page and its pictures into `out`; the path of the page.

    The same runs give the same bytes. Raises InputError if a folder holds no run with replies.
    """
    runs = [RunFolder.read(folder) for folder in dict.fromkeys(map(Path.resolve, folders))]
    read = [(run, *_complete_cells(run)) for run in runs]
    findings = [
        {
            "model": evidence.model.id,
            "claims": claims(evidence),
            "baselines": compare_with_baselines(evidence.cells),
        }
        for evidence in gather([(run.record, cells) for run, cells, _ in read])
    ]
    sections = [_section(number, *parts) for number, parts in enumerate(read, 1)]
    page = render(sections, findings)
    out.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in section["pictures"]:
            replace_file(out / f"{picture.name}.png", picture.png)
    replace_file(out / PAGE, page.encode("utf-8", "replace"))
    return out / PAGE


def _complete_cells(run: RunFolder) -> tuple[dict[Cell, list[ReplyRecord]], int]:
    """The complete cells, and how many are not: a run that is still being made has a last cell
    with too few replies."""
    cells = run.cells()
    complete = {cell: found for cell, found in cells.items() if len(found) == run.record.n}
    if not complete:
        raise InputError(
            f"The run {run.path} holds no complete cell of replies yet.",
            hint="Give its command again to go on with it.",
        )
    return complete, len(cells) - len(complete)


def _section(
    number: int, run: RunFolder, cells: Mapping[Cell, list[ReplyRecord]], left_out: int
) -> dict[str, Any]:
    """One run as the template shows it. left_out: how many cells are not complete."""
    evaluation = run.record.kind == "evaluate"
    rows = summaries(cells, run.timings())
    placements = _placements(cells) if evaluation else []
    pictures = accuracy_figures(number, run.record, rows)
    drawn = [pair for pair in placements if not shown(pair.condition).control]
    if drawn:
        pictures.append(pre_post_figure(number, drawn))
    presets = dict.fromkeys(row.cell.preset for row in rows)
    headlines = {
        preset: _headline([row for row in rows if row.cell.preset == preset]) for preset in presets
    }
    return {
        "name": run.path.name,
        "record": run.record,
        "left_out": left_out,
        "headlines": headlines if evaluation else {},
        "rows": rows,
        "pictures": pictures,
        "placements": placements,
        "samples": _samples(cells) if evaluation else [],
        "agreement": agreement_with_verifier(run),
    }


def _placements(cells: Mapping[Cell, list[ReplyRecord]]) -> list[PlacementPair]:
    """Post against pre for each preset and condition; unsteered replies know of no placement."""
    conditions = {cell.condition for cell in cells} - {"unsteered"}
    found = [
        PlacementPair(preset, condition, table)
        for condition in sorted(conditions, key=rank_of)
        for preset, table in post_against_pre(cells, condition).strata.items()
    ]
    presets = list(dict.fromkeys(cell.preset for cell in cells))
    return sorted(found, key=lambda one: presets.index(one.preset))


def _headline(rows: Sequence[Row]) -> str:
    """How many replies followed: steered, asked in words, and with neither."""

    def told(condition: str) -> list[tuple[Row, str]]:
        found = [row for row in rows if row.cell.condition == condition]
        return [(row, f"{row.followed.successes} of {row.n}") for row in found]

    steered = [
        f"{count} ({row.cell.placement}; {bounds(row.followed)} %)"
        for row, count in told("steered")
    ]
    prompted = [f"{count} ({row.cell.placement})" for row, count in told("prompted")]
    parts = []
    if steered:
        parts.append(f"steered, {' and '.join(steered)} replies followed the instruction")
    if prompted:
        parts.append(f"asked in words, {' and '.join(prompted)}")
    parts += [f"with neither, {count}" for _, count in told("unsteered")[:1]]
    sentence = "; ".join(parts)
    return f"{sentence[:1].upper()}{sentence[1:]}." if parts else ""


def _samples(
    cells: Mapping[Cell, list[ReplyRecord]],
) -> list[tuple[str, list[tuple[str, list[ReplyRecord]]]]]:
    """For each preset and placement a few texts, the same for every condition, with what each
    condition made of them. Nobody picked them by hand."""
    ordered = sorted(cells, key=lambda cell: rank_of(cell.condition))
    found = []
    for place in dict.fromkeys(map(stratum, cells)):
        replies = [reply for cell in ordered if stratum(cell) == place for reply in cells[cell]]
        # By hash: an order that has nothing to do with how good the replies are.
        contents = sorted({reply.content for reply in replies}, key=_hash)
        by_text = [
            (content, [reply for reply in replies if reply.content == content])
            for content in contents[:N_TEXTS]
        ]
        found.append((place, by_text))
    return found


def _hash(text: str) -> bytes:
    return sha256(text.encode("utf-8", "replace")).digest()


def _check_result(reply: ReplyRecord) -> str:
    """What the checks say of a reply, in words."""
    if reply.degenerate:
        start = "recognisable but degenerate" if reply.loose else "degenerate"
        return f"{start}: {', '.join(reply.problems)}"
    if reply.strict:
        return "followed, and about the text"
    return "followed, but hardly about the text" if reply.loose else "not followed"


def render(sections: Sequence[dict[str, Any]], findings: Sequence[dict[str, Any]]) -> str:
    """The page as HTML. Whatever comes from a model or a file is escaped."""
    environment = page_environment(Path(__file__).parent)
    environment.filters.update(
        title_of=title_of,
        check_result=_check_result,
        share=lambda found: f"{100 * found.value:.0f}",
        bounds=bounds,
        p_value=p_value,
        points=lambda table: signed(table.difference),
        points_between=lambda table: " to ".join(map(signed, table.interval())),
        short=lambda digest: digest[:12],
        groupby_place=lambda rows: groupby(rows, lambda row: stratum(row.cell)),
        kappa=_kappa,
        baseline_summary=summary_sentence,
        shortfall=shortfall,
        number=lambda value: f"{value:g}" if isinstance(value, float) else value,
        unbroken=lambda text: re.sub(r" (?=[%=<])|(?<=[=<]) ", "\u00a0", text),
    )
    template = environment.get_template("report.html")
    return template.render(sections=sections, findings=findings, width=WIDTH, n_texts=N_TEXTS)


def _kappa(found: Kappa | None) -> str:
    if found is None:
        return "undefined"
    within = "" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.value:.2f}{within}"
