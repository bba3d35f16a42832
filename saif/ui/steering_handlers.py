"""What the steering panel does by itself: a preset brings its calibrated values, and the
read-outs follow the controls."""

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from saif.core.types import Placement
from saif.presets.preset import LoadedPreset
from saif.ui.choices import first_choice, layer_choices, most_latents, preset_choices
from saif.ui.describe import (
    dose_line,
    latents_table,
    problems_line,
    said,
    scores_table,
)
from saif.ui.services import Services
from saif.ui.steering_panel import SteeringPanel

SHOWN_EXAMPLES = 4


@dataclass(frozen=True)
class SteeringHandlers:
    services: Services
    panel: SteeringPanel

    def renew(self) -> list[Any]:
        """The presets of the model that answers now, which model that is, and what to say if it
        has none."""
        services = self.services
        cards, problems = services.offer()
        shown = services.current.model_id
        presets = gr.Dropdown(preset_choices(cards), value=first_choice(cards))
        return [shown, presets, problems_line(problems)]

    def choose(self, name: str | None, placement: Placement) -> list[Any]:
        """What is known of this preset, its calibrated k, layer and span at this placement, its
        scores, and messages to try it with."""
        if name is None:  # nothing is known of nothing
            return ["", *[gr.skip()] * 3, "", gr.skip()]
        card = self.services.card(name)
        part = card.placements[placement]
        instruction = self.services.library.instruction(card.instruction)
        return [
            said(instruction.description),
            gr.Slider(
                value=part.latents.k,
                maximum=most_latents(card, placement),
                info=f"Calibrated: {part.latents.k}.",
            ),
            gr.Dropdown(layer_choices(card, placement), value=part.choice.layer),
            part.choice.span,
            scores_table(card, placement),
            gr.Dataset(samples=[[text] for text in instruction.examples[:SHOWN_EXAMPLES]]),
        ]

    def dose(self, name: str | None, placement: Placement, strength: float | None) -> Any:
        if name is None:
            return ""
        if strength is None:  # the number is being edited
            return gr.skip()
        return dose_line(self.services.card(name), placement, strength)

    def latents(
        self,
        name: str | None,
        placement: Placement,
        strength: float | None,
        k: float | None,
        layer: int | None,
    ) -> Any:
        if name is None:
            return ""
        if k is None:
            return gr.skip()
        card = self.services.card(name)
        part = card.placements[placement]
        if layer is None or layer not in part.layer_numbers:
            return gr.skip()
        source = replace(part.latents, k=int(k))
        selected = LoadedPreset(card).select(placement, layer, source)
        return latents_table(selected, strength=strength or 0)
