"""What the steering panel does by itself: a preset brings its calibrated values, and the
read-outs follow the controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from saif.core.spec import Placement
from saif.presets.preset import Preset
from saif.ui.choices import layer_choices, most_latents
from saif.ui.describe import about_line, dose_line, latents_table, pushed_latents, scores_table
from saif.ui.services import Services
from saif.ui.steering_panel import SteeringPanel

SHOWN_EXAMPLES = 4


@dataclass(frozen=True)
class PanelHandlers:
    services: Services
    cards: Mapping[str, Preset]
    panel: SteeringPanel
    examples: gr.Dataset

    @property
    def choice_inputs(self) -> list[Any]:
        return [self.panel.push.preset, self.panel.push.placement]

    @property
    def choice_outputs(self) -> list[Any]:
        """In the order of what `choose` returns."""
        push, fine = self.panel.push, self.panel.fine
        return [push.about, fine.k, fine.layer, fine.span, self.panel.scores, self.examples]

    def choose(self, name: str | None, placement: Placement) -> list[Any]:
        """The calibrated values of this preset and placement, and what is known of it."""
        if name is None:
            return [gr.skip()] * len(self.choice_outputs)
        card = self.cards[name]
        choice = card.placements[placement].choice
        return [
            about_line(self.services.library.instruction(card.instruction).description),
            gr.Slider(
                value=choice.k,
                maximum=most_latents(card, placement),
                info=f"Calibrated: {choice.k}.",
            ),
            gr.Dropdown(layer_choices(card, placement), value=choice.layer),
            choice.span,
            scores_table(card, placement),
            gr.Dataset(samples=[[text] for text in self.example_texts(name)]),
        ]

    def dose(self, name: str | None, placement: Placement, strength: float | None) -> Any:
        if name is None or strength is None:  # None: the number is being edited
            return gr.skip()
        return dose_line(self.cards[name], placement, strength)

    def latents(
        self,
        name: str | None,
        placement: Placement,
        strength: float | None,
        k: float | None,
        layer: int | None,
    ) -> Any:
        if name is None or k is None:
            return gr.skip()
        card = self.cards[name]
        if layer is None or layer not in card.placements[placement].layer_numbers:
            return gr.skip()
        pushed = pushed_latents(card, placement, layer, int(k))
        return latents_table(pushed, strength=strength or 0)

    def example_texts(self, name: str | None) -> list[str]:
        """Messages to try with this preset."""
        if name is None:
            return []
        instruction = self.services.library.instruction(self.cards[name].instruction)
        return instruction.examples[:SHOWN_EXAMPLES]
