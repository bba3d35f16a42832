"""Sample replies: a few texts, the same for every condition, that nobody picked by hand."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from saif.experiments.evaluate.run_folder import ReplyRecord
from saif.experiments.evaluate.summary import Cells
from saif.report.conditions import rank_of

N_TEXTS = 3


@dataclass(frozen=True, slots=True)
class SampleSet:
    """The samples of one preset and placement."""

    preset: str
    placement: str
    replies: Sequence[tuple[str, Sequence[ReplyRecord]]]
    """Each text with what every condition made of it, conditions in their order."""


def samples(cells: Cells) -> list[SampleSet]:
    """A set per preset and placement of an evaluation."""
    return [
        SampleSet(preset, placement, _replies_by_text(cells, preset, placement))
        for preset, placement in dict.fromkeys((cell.preset, cell.placement) for cell in cells)
    ]


def _replies_by_text(
    cells: Cells, preset: str, placement: str
) -> list[tuple[str, list[ReplyRecord]]]:
    own = [cell for cell in cells if (cell.preset, cell.placement) == (preset, placement)]
    found = [
        reply
        for cell in sorted(own, key=lambda cell: rank_of(cell.condition))
        for reply in cells[cell]
    ]
    # By hash: an order that has nothing to do with how good the replies are.
    contents = sorted(
        {reply.content for reply in found},
        key=lambda content: sha256(content.encode("utf-8", "replace")).digest(),
    )
    return [
        (content, [reply for reply in found if reply.content == content])
        for content in contents[:N_TEXTS]
    ]


def check_result(reply: ReplyRecord) -> str:
    """What the checks say of a reply, in words."""
    if reply.degenerate:
        start = "recognisable but degenerate" if reply.loose else "degenerate"
        return f"{start}: {', '.join(reply.problems)}"
    if reply.strict:
        return "followed, and about the text"
    return "followed, but hardly about the text" if reply.loose else "not followed"
