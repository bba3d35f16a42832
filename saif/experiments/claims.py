"""The claims of SAIF (arXiv 2502.11356) held against what was measured.

Every claim is decided the same way. Replies to the same text are paired and pooled over presets
and placements. A difference is there if the exact McNemar test says so at 5 %; it is absent if its
95 % interval lies below ten points; otherwise the claim is unclear. A verdict that some preset by
itself contradicts at 5 % is unclear too.
"""

from dataclasses import dataclass
from itertools import chain

from saif.core.statistics import Rate
from saif.experiments.evaluate.comparison import (
    ALPHA,
    MARGIN,
    Decision,
    compare,
    post_against_pre,
    stratum,
    swept_numbers,
    uneven_doses,
    with_interval,
)
from saif.experiments.evaluate.summary import Cells, Evidence, Outcome, rate_of
from saif.report.conditions import title_of

_PLAIN = "… with the paper's plain recipe (k = 15, last layer)."
STRICT_SHARE = 0.30  # the paper's "over 30 %"
_SAME_DOSE = 0.05  # doses that differ by less count as matched


@dataclass(frozen=True, slots=True)
class Claim:
    """text: what the paper claims. number: what was found, in words, with interval and n."""

    text: str
    held: Decision
    number: str


def claims(evidence: Evidence) -> list[Claim]:
    """All of them, in the paper's order."""
    return [
        a_set_is_needed(evidence),
        k_has_an_optimum(evidence),
        latents_are_causal(evidence),
        latents_are_specific(evidence),
        last_layer_is_best(evidence),
        post_beats_pre(evidence),
        post_beats_pre(evidence, suffix=True),
        loose_is_comparable(evidence),
        loose_is_comparable(evidence, plain=True),
        strict_is_over_30(evidence),
        strict_is_over_30(evidence, plain=True),
    ]


def a_set_is_needed(evidence: Evidence) -> Claim:
    text = "A set of instruction latents steers, and a single one is not enough."
    subject = _subject(evidence.cells)
    works = compare(evidence.cells, subject, "unsteered")
    alone = compare(evidence.cells, subject, "single-latent")
    if not alone.strata or not works.strata:
        return _unmeasured(text, "an evaluation with a single latent and unsteered replies")
    name = title_of(subject)
    number = f"{alone.words(name, 'single latent')}. {works.words(name, 'unsteered')}."
    return Claim(text, _all_of(alone.better(), works.better()), number)


def k_has_an_optimum(evidence: Evidence) -> Claim:
    text = "There is an optimal number of latents k: fewer and more are worse."
    swept = swept_numbers(evidence.sweeps.get("k", {}), "steered")
    values = list(swept)
    if len(values) < 3:
        return _unmeasured(text, "a sweep over at least three values of k")
    inner = values[1:-1]
    best = swept.best(inner)
    # The best of several was picked by looking, so it must be surer than one named beforehand.
    alpha = ALPHA / len(inner)
    fewer, more = (swept.between(best, end) for end in (values[0], values[-1]))
    names = [f"k = {value:g}" for value in (best, values[0], values[-1])]
    number = f"{fewer.words(names[0], names[1])}. {more.words(names[0], names[2])}."
    return Claim(text, _all_of(fewer.better(alpha), more.better(alpha)), number)


def last_layer_is_best(evidence: Evidence) -> Claim:
    text = "The last layer is the best one to steer."
    swept = swept_numbers(evidence.sweeps.get("layer", {}), "steered")
    values = list(swept)
    last = evidence.model.n_layers - 1
    if len(values) < 2 or last not in values:
        measured = f" (measured: {', '.join(f'{value:g}' for value in values)})" if values else ""
        return _unmeasured(text, f"a sweep that includes layer {last}, the last{measured}")
    others = [value for value in values if value != last]
    other = swept.best(others)
    found = swept.between(last, other)
    held = found.better(ALPHA if found.pooled.difference > 0 else ALPHA / len(others))
    return Claim(text, held, found.words(f"layer {last}", f"layer {other:g}, the best other") + ".")


def post_beats_pre(evidence: Evidence, *, suffix: bool = False) -> Claim:
    text = "Instructions after the content work better than before it (steered)."
    condition, needed = _subject(evidence.cells), "both placements, steered"
    if suffix:
        text = "… also when both prompts end in the same neutral sentence (steered)."
        condition, needed = "steered-suffix", "both placements with the suffix"
    found = post_against_pre(evidence.cells, condition)
    if not found.strata:
        # A sweep over the placement, told as an evaluation's cells.
        told = {
            cell.model_copy(update={"placement": cell.value, "value": None}): replies
            for cell, replies in evidence.sweeps.get("placement", {}).items()
            if cell.value in ("pre", "post")
        }
        found = post_against_pre(told, condition)
    if not found.strata:
        return _unmeasured(text, needed)
    return Claim(text, found.better(), found.words("post", "pre") + ".")


def loose_is_comparable(evidence: Evidence, *, plain: bool = False) -> Claim:
    text = _PLAIN if plain else "Loose accuracy is comparable to prompting (within 10 points)."
    condition = "saif" if plain else _subject(evidence.cells)
    found = compare(evidence.cells, condition, "prompted", "loose")
    if not found.strata:
        return _unmeasured(text, f"{title_of(condition)} beside prompted replies")
    held = _above(-MARGIN, found.pooled.interval())
    far = [name for name, table in found.strata.items() if table.interval()[1] < -MARGIN]
    number = found.words(f"{title_of(condition)}, loose", "prompted")
    if far and held == "yes":
        held, number = "unclear", f"{number}; clearly worse for {', '.join(far)}"
    clean = _rate(evidence.cells, condition, "followed")
    return Claim(text, held, f"{number}. Loose and not degenerate: {with_interval(clean)}.")


def strict_is_over_30(evidence: Evidence, *, plain: bool = False) -> Claim:
    text = _PLAIN if plain else "Strict accuracy is over 30 %."
    condition = "saif" if plain else _subject(evidence.cells)
    cells = {cell: found for cell, found in evidence.cells.items() if cell.condition == condition}
    if not cells:
        return _unmeasured(text, f"{title_of(condition)} replies")
    pooled = _rate(cells, condition, "strict")
    held = _above(STRICT_SHARE, pooled.wilson())
    number = f"{title_of(condition)} {with_interval(pooled)} strict, n = {pooled.n}"
    below = [
        stratum(cell)
        for cell, found in cells.items()
        if rate_of(found, "strict").wilson()[1] < STRICT_SHARE
    ]
    if below and held == "yes":
        held, number = "unclear", f"{number}; clearly below for {', '.join(below)}"
    return Claim(text, held, number + ".")


def latents_are_causal(evidence: Evidence) -> Claim:
    text = "The latents are causal: random ones at the same dose do not do it."
    found = compare(evidence.cells, "steered", "random")
    if not found.strata:
        return _unmeasured(text, "steered replies beside random latents")
    number, held = found.words("steered", "random latents"), found.better()
    uneven = uneven_doses(evidence.cells, "steered", "random", _SAME_DOSE)
    if uneven and held != "no":
        held, number = "unclear", f"{number}; the doses differ for {', '.join(uneven)}"
    works = compare(evidence.cells, "steered", "unsteered")
    if works.strata:
        held = _all_of(held, works.better())
        number = f"{number}. {works.words('steered', 'unsteered')}"
    return Claim(text, held, number + ".")


def latents_are_specific(evidence: Evidence) -> Claim:
    text = "The latents are specific: another instruction's latents stay at chance."
    chance = compare(evidence.cells, "wrong-instruction", "unsteered")
    right = compare(evidence.cells, "steered", "wrong-instruction")
    if not chance.strata or not right.strata:
        return _unmeasured(text, "an evaluation with the wrong instruction's latents")
    low, high = chance.pooled.interval()
    stays: Decision = "yes" if high < MARGIN else "no" if low > 0 else "unclear"
    above = [name for name, table in chance.strata.items() if table.interval()[0] > 0]
    number = chance.words("wrong instruction", "chance (unsteered)")
    if above and stays == "yes":
        stays, number = "unclear", f"{number}; above chance for {', '.join(above)}"
    number = f"{number}. {right.words('the right one', 'wrong instruction')}."
    # Without an effect of the right latents there is nothing that could be specific.
    works = right.better()
    return Claim(text, stays if works == "yes" or stays == "no" else "unclear", number)


def _unmeasured(text: str, needed: str) -> Claim:
    return Claim(text, "not measured", f"Needs {needed}.")


def _above(bound: float, interval: tuple[float, float]) -> Decision:
    low, high = interval
    return "yes" if low > bound else "no" if high < bound else "unclear"


def _all_of(*parts: Decision) -> Decision:
    order: tuple[Decision, ...] = ("not measured", "no", "unclear", "yes")
    return min(parts, key=order.index)


def _subject(cells: Cells) -> str:
    """What stands for the method: the calibrated preset, or the plain recipe if only that ran."""
    conditions = {cell.condition for cell in cells}
    return "saif" if "saif" in conditions and "steered" not in conditions else "steered"


def _rate(cells: Cells, condition: str, outcome: Outcome) -> Rate:
    parts = [replies for cell, replies in cells.items() if cell.condition == condition]
    return rate_of(chain(*parts), outcome)
