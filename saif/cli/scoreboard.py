"""The scores of a model's presets as one Markdown table, for docs/presets.md."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saif.core.types import PLACEMENTS
from saif.report.conditions import title_of

if TYPE_CHECKING:
    from saif.presets.preset import ConditionScores, Preset, Scores

_COLUMNS = ("unsteered", "steered", "prompted", "mean-difference", "random", "saif")


def scoreboard(cards: "Sequence[Preset]") -> str:
    """A row per preset and placement: the choice, and loose / degenerate in per cent for each
    condition; strict for the steered and the prompted one."""
    head = ["preset", "placement", "layer", "k", "dose", "shape"]
    head += [title_of(name) for name in _COLUMNS] + ["strict: steered, prompted"]
    rows = [head, ["---"] * len(head)]
    for card in cards:
        for placement in PLACEMENTS:
            part = card.placements[placement]
            if part.scores is None:
                continue
            choice = part.choice
            rows.append(
                [
                    card.title if placement == PLACEMENTS[0] else "",
                    placement,
                    " + ".join(map(str, choice.layers)),
                    str(part.latents.k),
                    f"{choice.dose:.2f}",
                    str(choice.schedule) or "added",
                    *(_cell(part.scores.condition(name)) for name in _COLUMNS),
                    _strict(part.scores),
                ]
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(scores: "ConditionScores | None") -> str:
    if scores is None:
        return ""
    loose, degenerate = 100 * scores.loose.value, 100 * scores.degenerate.value
    text = f"{loose:.0f} / {degenerate:.0f}"
    return f"**{text}**" if scores.condition == "steered" else text


def _strict(scores: "Scores") -> str:
    found = (scores.condition(name) for name in ("steered", "prompted"))
    return ", ".join(f"{100 * row.strict.value:.0f}" for row in found if row is not None)
