"""What a preset lets a person choose from, and how the choices read."""

from collections.abc import Mapping

from saif.core.types import Placement, Span
from saif.presets.preset import Preset
from saif.presets.spec import MAX_STORED_LATENTS

SPAN_CHOICES: list[tuple[str, Span]] = [
    ("The reply, from its first word on", "response"),
    ("Only what the model reads", "prompt"),
    ("Both", "all"),
]


FIRST_CHOICE = "translate-french"
"""What a new visitor sees chosen, where there is such a preset: its effect is plain to see."""


def first_choice(cards: Mapping[str, Preset]) -> str | None:
    return FIRST_CHOICE if FIRST_CHOICE in cards else next(iter(cards), None)


def preset_choices(cards: Mapping[str, Preset]) -> list[tuple[str, str]]:
    """Title and id of each."""
    return [(card.title, name) for name, card in cards.items()]


def layer_choices(card: Preset, placement: Placement) -> list[tuple[str, int]]:
    """The layers with stored latents, counted from 0; the calibrated one is marked, together with
    those that are steered as well."""
    part = card.placements[placement]
    calibrated = " + ".join(map(str, part.choice.layers))
    return [
        (f"{calibrated} (calibrated)" if layer == part.choice.layer else str(layer), layer)
        for layer in sorted(part.layer_numbers)
    ]


def most_latents(card: Preset, placement: Placement) -> int:
    """How far the k control reaches: what every layer of this preset has stored."""
    stored = min(len(table.latents) for table in card.placements[placement].layers)
    calibrated = card.placements[placement].latents.k
    return max(2, calibrated, min(MAX_STORED_LATENTS, stored))  # a slider needs a range
