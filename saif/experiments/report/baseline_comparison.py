"""Comparison of latents with the baselines to beat: mean difference, and asking in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from saif.core.statistics import PairedTable, Rate, mcnemar
from saif.experiments.evaluate.comparison import signed, stratum
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord
from saif.experiments.evaluate.summary import Cells, pairs, rate_of

VARIANTS = ("steered", "single-latent", "saif")
"""Ways to steer with a preset's own latents, the calibrated one first."""


@dataclass(frozen=True, slots=True)
class BaselineComparison:
    """One preset at one placement, held against both baselines."""

    place: str
    variant: str
    """The way with latents that most replies followed; of several the first in `VARIANTS`."""
    table: PairedTable
    """Whether replies followed: the variant's (first) and mean difference's, on the same texts."""
    strict: Rate
    prompted_strict: Rate | None
    """Of asking in words, if that was measured."""

    @property
    def reached(self) -> bool:
        """At least as many replies followed as under mean difference."""
        return self.table.difference >= 0

    @property
    def half_of_prompted(self) -> bool:
        """Half of the strict accuracy of asking in words, or more."""
        asked = self.prompted_strict
        return asked is not None and self.strict.value >= asked.value / 2


def compare_with_baselines(cells: Cells) -> list[BaselineComparison]:
    """One for every preset and placement where mean difference was measured beside latents."""
    found = []
    in_order = sorted(cells.items(), key=lambda item: (item[0].preset, item[0].placement != "pre"))
    for cell, baseline in in_order:
        if cell.condition != "mean-difference" or cell.value is not None:
            continue
        beside = {name: _at(cells, cell, name) for name in VARIANTS}
        measured = [name for name, replies in beside.items() if pairs(replies, baseline)]
        if not measured:
            continue
        variant = max(measured, key=lambda name: rate_of(beside[name]).value)
        prompted = _at(cells, cell, "prompted")
        found.append(
            BaselineComparison(
                place=stratum(cell),
                variant=variant,
                table=mcnemar(pairs(beside[variant], baseline)),
                strict=rate_of(beside[variant], "strict"),
                prompted_strict=rate_of(prompted, "strict") if prompted else None,
            )
        )
    return found


def summary_sentence(found: Sequence[BaselineComparison]) -> str:
    """How often latents reach each baseline, and where they fall shortest."""
    reached = sum(comparison.reached for comparison in found)
    told = f"Latents reach mean difference at its own best setting in {reached} of {len(found)}"
    last = min(found, key=lambda comparison: comparison.table.difference)
    if not last.reached:
        told += f"; they fall furthest behind for {last.place} ({shortfall(last)} points)"
    asked = [comparison for comparison in found if comparison.prompted_strict is not None]
    if asked:
        half = sum(comparison.half_of_prompted for comparison in asked)
        told += f". They reach half of the strict accuracy of asking in words in {half}"
        told += f" of {len(asked)}"
    return f"{told}."


def shortfall(comparison: BaselineComparison) -> str:
    """By how many points of a hundred the variant is ahead of mean difference, or short of it."""
    points = signed(comparison.table.difference)
    if comparison.reached:
        return "level" if points == "0" else f"ahead by {points[1:]}"
    return f"short by {'less than 1' if points == '0' else points[1:]}"


def _at(cells: Cells, place: Cell, condition: str) -> Sequence[ReplyRecord]:
    return cells.get(place.model_copy(update={"condition": condition}), [])
