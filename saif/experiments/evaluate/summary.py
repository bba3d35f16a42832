"""Rates of a run: what one cell's replies come to, and which replies make a pair.

Knows nothing of pages or pictures.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

from saif.core.statistics import Rate, rate
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord, RunFolder, RunRecord, Timing
from saif.presets.preset import ConditionScores, Interval, ModelRef, Scores
from saif.report.conditions import rank_of

Cells = Mapping[Cell, Sequence[ReplyRecord]]
Outcome = Literal["loose", "strict", "degenerate", "followed"]


def rate_of(replies: Iterable[ReplyRecord], outcome: Outcome = "followed") -> Rate:
    return rate([getattr(reply, outcome) for reply in replies])


@dataclass(frozen=True, slots=True)
class Row:
    """One cell in numbers."""

    cell: Cell
    loose: Rate
    strict: Rate
    degenerate: Rate
    followed: Rate
    perplexity: float | None
    """Median over the replies where it was measured."""
    layer: int | None
    """The first that was steered; None where nothing was."""
    dose: float | None
    """Of all layers together; None where nothing was steered."""
    tokens_per_second: float | None
    """Of all rows of the batch together."""

    @property
    def n(self) -> int:
        return self.loose.n


def summarise(cell: Cell, replies: Sequence[ReplyRecord], timing: Timing | None = None) -> Row:
    """A cell's rates over its replies, of which there is at least one."""
    speed = timing and timing.generation_seconds and timing.tokens / timing.generation_seconds
    return Row(
        cell=cell,
        **{outcome: rate_of(replies, outcome) for outcome in get_args(Outcome)},
        perplexity=_median(reply.perplexity for reply in replies),
        layer=next(iter((replies[0].push or {}).get("layers", ())), None),
        dose=_median(reply.dose for reply in replies),
        tokens_per_second=speed or None,
    )


def _median(values: Iterable[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return median(finite) if finite else None


def summaries(cells: Cells, timings: Mapping[Cell, Timing]) -> list[Row]:
    """Preset by preset in the order of the run, pre before post, conditions in their order."""
    presets = list(dict.fromkeys(cell.preset for cell in cells))
    rows = [summarise(cell, replies, timings.get(cell)) for cell, replies in cells.items()]
    return sorted(
        rows,
        key=lambda row: (
            presets.index(row.cell.preset),
            row.cell.placement != "pre",
            rank_of(row.cell.condition),
        ),
    )


def stored_scores(run: RunFolder, bound: float) -> Scores:
    """The summary of a preset's evaluation on held-out texts, as the preset keeps it."""
    (max_new_tokens,) = run.record.max_new_tokens.values()
    rows = [summarise(cell, replies) for cell, replies in run.cells().items()]
    return Scores(
        split="held-out",
        n=run.record.n,
        max_new_tokens=max_new_tokens,
        perplexity_bound=bound,
        command=run.record.command,
        conditions=[
            ConditionScores(
                condition=row.cell.condition,
                layer=row.layer,
                loose=_interval(row.loose),
                strict=_interval(row.strict),
                degenerate=_interval(row.degenerate),
                perplexity=None if row.perplexity is None else round(row.perplexity, 2),
                dose=None if row.dose is None else round(row.dose, 4),
            )
            for row in rows
        ],
        run=run.record.identity(),
    )


def _interval(found: Rate) -> Interval:
    low, high = found.wilson()
    return Interval(successes=found.successes, n=found.n, low=round(low, 4), high=round(high, 4))


def pairs(
    first: Sequence[ReplyRecord], second: Sequence[ReplyRecord], outcome: Outcome = "followed"
) -> list[tuple[bool, bool]]:
    """Outcomes on the same content, (first, second); what only one of them has is left out."""
    known = dict(_by_content(second, outcome))
    return [(holds, known[key]) for key, holds in _by_content(first, outcome) if key in known]


def _by_content(
    replies: Sequence[ReplyRecord], outcome: Outcome
) -> Iterable[tuple[tuple[str, int], bool]]:
    """A content may come twice; its n-th reply belongs to the other's n-th."""
    seen: Counter[str] = Counter()
    for reply in replies:
        seen[reply.content] += 1
        yield (reply.content, seen[reply.content]), getattr(reply, outcome)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was measured on one model. cells: of evaluations. sweeps: parameter -> cells."""

    model: ModelRef
    quantize: str
    cells: dict[Cell, Sequence[ReplyRecord]]
    sweeps: dict[str, dict[Cell, Sequence[ReplyRecord]]]


def gather(runs: Sequence[tuple[RunRecord, Cells]]) -> list[Evidence]:
    """Runs by model. A cell that several runs hold counts once, from the run named first: the
    same replies counted twice would look like more evidence."""
    groups: dict[tuple[str, str], Evidence] = {}
    for record, cells in runs:
        key = (record.model.fingerprint, record.quantize)
        known = groups.setdefault(key, Evidence(record.model, record.quantize, {}, {}))
        own = known.sweeps.setdefault(record.over, {}) if record.over else known.cells
        for cell, replies in cells.items():
            own.setdefault(cell, replies)
    return list(groups.values())
