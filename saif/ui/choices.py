"""What a preset lets a person choose from, and how the choices read."""

from saif.core.spec import Placement, Span
from saif.presets.preset import MAX_STORED_LATENTS, Choice, Preset

SPAN_CHOICES: list[tuple[str, Span]] = [
    ("The reply, from its first word on", "response"),
    ("Only what the model reads", "prompt"),
    ("Both", "all"),
]


def calibrated_of(card: Preset, placement: Placement) -> Choice:
    return card.placements[placement].choice


def layer_choices(card: Preset, placement: Placement) -> list[tuple[str, int]]:
    """The layers with stored latents, counted from 0; the calibrated one is marked."""
    part = card.placements[placement]
    return [
        (f"{layer} (calibrated)" if layer == part.choice.layer else str(layer), layer)
        for layer in sorted(part.layer_numbers)
    ]


def most_latents(card: Preset, placement: Placement) -> int:
    """How far the k control reaches: what every layer of this preset has stored."""
    stored = min(len(table.latents) for table in card.placements[placement].layers)
    return max(2, min(MAX_STORED_LATENTS, stored))  # a slider needs a range
