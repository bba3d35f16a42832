"""Replies to look at: a few texts, the same for every condition, that nobody picked by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

from saif.experiments.evaluate.run_folder import ReplyRecord
from saif.experiments.evaluate.summary import Cells, followed, rank_of
from saif.files import sha256_of
from saif.report.conditions import title_of

N_TEXTS = 3


@dataclass(frozen=True, slots=True)
class Card:
    """One reply. verdict: what the checks say of it, in words."""

    condition: str
    title: str
    text: str
    verdict: str
    good: bool
    degenerate: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One text and what every condition made of it."""

    content: str
    cards: Sequence[Card]


@dataclass(frozen=True, slots=True)
class Shelf:
    """The examples of one preset and placement."""

    preset: str
    placement: str
    examples: Sequence[Example]


def gallery(cells: Cells) -> list[Shelf]:
    """A shelf per preset and placement of an evaluation."""
    places = dict.fromkeys((cell.preset, cell.placement) for cell in cells)
    return [_shelf(cells, preset, placement) for preset, placement in places]


def _shelf(cells: Cells, preset: str, placement: str) -> Shelf:
    found = {
        cell.condition: replies
        for cell, replies in cells.items()
        if (cell.preset, cell.placement) == (preset, placement)
    }
    contents = {reply.content for replies in found.values() for reply in replies}
    examples = []
    for content in sorted(contents, key=_chance)[:N_TEXTS]:
        cards = [
            _card(condition, reply)
            for condition in sorted(found, key=rank_of)
            for reply in found[condition]
            if reply.content == content
        ]
        examples.append(Example(content, cards))
    return Shelf(preset, placement, examples)


def _chance(content: str) -> str:
    """An order that has nothing to do with how good the replies are."""
    return sha256_of([content.encode("utf-8", "replace")])


def _card(condition: str, reply: ReplyRecord) -> Card:
    return Card(
        condition=condition,
        title=title_of(condition),
        text=reply.text,
        verdict=_verdict(reply),
        good=followed(reply),
        degenerate=reply.degenerate,
    )


def _verdict(reply: ReplyRecord) -> str:
    if reply.degenerate:
        start = "recognisable but degenerate" if reply.loose else "degenerate"
        return f"{start}: {', '.join(reply.problems)}"
    if reply.strict:
        return "followed, and about the text"
    return "followed, but hardly about the text" if reply.loose else "not followed"
