"""Paired comparison of two settings: which is better, by how much, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from saif.core.statistics import PairedTable, Rate, mcnemar
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord
from saif.experiments.evaluate.summary import Cells, Outcome, pairs, rate_of, summarise

Decision = Literal["yes", "no", "unclear", "not measured"]

MARGIN = 0.10
"""A difference below ten points is none worth having; replies within ten points are comparable."""
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two settings on the same texts, by preset and placement."""

    strata: Mapping[str, PairedTable]

    @property
    def pooled(self) -> PairedTable:
        names = ("both", "first_only", "second_only", "neither")
        tables = self.strata.values()
        return PairedTable(**{name: sum(getattr(one, name) for one in tables) for name in names})

    def better(self, alpha: float = ALPHA) -> Decision:
        """Is the first setting better than the second?"""
        pooled = self.pooled
        if not pooled.n:
            return "not measured"
        if pooled.p < alpha:
            if self.contrary():
                return "unclear"
            return "yes" if pooled.difference > 0 else "no"
        return "no" if pooled.interval()[1] < MARGIN else "unclear"

    def contrary(self) -> list[str]:
        """The strata that by themselves say the opposite of all together."""
        up = self.pooled.difference > 0
        return [
            name
            for name, one in self.strata.items()
            if (one.difference < 0 if up else one.difference > 0) and one.p < ALPHA
        ]

    def words(self, first: str, second: str) -> str:
        """The pooled rates, their difference with its interval, n and p."""
        table = self.pooled
        low, high = map(signed, table.interval())
        text = (
            f"{percent(table.first)} ({first}) against {percent(table.second)} ({second}): "
            f"{signed(table.difference)} points (95 % interval {low} to {high}; "
            f"n = {table.n}, {p_value(table.p)})"
        )
        contrary = self.contrary()
        return text + (f"; the other way round for {', '.join(contrary)}" if contrary else "")


def percent(found: Rate) -> str:
    return f"{100 * found.value:.0f} %"


def signed(difference: float) -> str:
    """A difference of rates in points, with its sign; 0 has none."""
    points = round(100 * difference)
    return "0" if points == 0 else f"{points:+d}".replace("-", "\u2212")


def bounds(found: Rate) -> str:
    """The 95 % interval in per cent, without the sign."""
    low, high = found.wilson()
    return f"{100 * low:.0f}–{100 * high:.0f}"


def with_interval(found: Rate) -> str:
    return f"{percent(found)} ({bounds(found)})"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def stratum(cell: Cell) -> str:
    return f"{cell.preset}, {cell.placement}"


def compare(cells: Cells, first: str, second: str, outcome: Outcome = "followed") -> Comparison:
    """Two conditions of an evaluation, wherever both were measured."""
    return _compare(
        {
            stratum(cell): (replies, _partner(cells, cell, second))
            for cell, replies in cells.items()
            if cell.condition == first and cell.value is None
        },
        outcome,
    )


def _compare(
    strata: Mapping[str, tuple[Sequence[ReplyRecord], Sequence[ReplyRecord]]],
    outcome: Outcome = "followed",
) -> Comparison:
    found = {name: pairs(first, second, outcome) for name, (first, second) in strata.items()}
    return Comparison({name: mcnemar(paired) for name, paired in found.items() if paired})


def _partner(cells: Cells, cell: Cell, condition: str) -> Sequence[ReplyRecord]:
    """The other condition at the same placement. Unsteered replies know of no placement."""
    for other, replies in cells.items():
        same_place = other.placement == cell.placement or condition == "unsteered"
        if other.condition == condition and other.preset == cell.preset and same_place:
            return replies
    return []


def post_against_pre(cells: Cells, condition: str) -> Comparison:
    """Post (first) and pre (second) of one condition, by preset."""
    return _compare(
        {
            cell.preset: (replies, cells.get(cell.model_copy(update={"placement": "pre"}), ()))
            for cell, replies in cells.items()
            if cell.condition == condition and cell.placement == "post"
        }
    )


def uneven_doses(cells: Cells, first: str, second: str, tolerance: float) -> list[str]:
    """The strata where the two conditions steered at different doses."""
    found = []
    for cell, replies in cells.items():
        other = _partner(cells, cell, second)
        if cell.condition != first or not other:
            continue
        one, two = summarise(cell, replies).dose, summarise(cell, other).dose
        if one is None or two is None or abs(one - two) > tolerance * max(one, two):
            found.append(stratum(cell))
    return found


class Swept(dict[float, Mapping[str, Sequence[ReplyRecord]]]):
    """A sweep over a number under one condition: value -> stratum -> replies, in the order of the
    values. Only those that every preset and placement was measured at, so that they can be pooled.
    """

    def best(self, values: Sequence[float]) -> float:
        """The value with the most replies that followed; the smallest of several."""
        return max(values, key=lambda value: rate_of(chain(*self[value].values())).value)

    def between(self, first: float, second: float) -> Comparison:
        strata = {name: (one, self[second][name]) for name, one in self[first].items()}
        return _compare(strata)


def swept_numbers(cells: Cells, condition: str) -> Swept:
    """What a sweep says about one condition; nothing if it swept no number."""
    found: dict[float, dict[str, Sequence[ReplyRecord]]] = {}
    for cell, replies in cells.items():
        if cell.condition == condition and isinstance(cell.value, int | float):
            found.setdefault(float(cell.value), {})[stratum(cell)] = replies
    everywhere = max((len(strata) for strata in found.values()), default=0)
    return Swept(item for item in sorted(found.items()) if len(item[1]) == everywhere)
