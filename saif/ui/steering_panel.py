"""Layout of the steering panel, and the values read back from it. Nothing is wired here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from gradio.components import Component

from saif.core.types import Placement, Sampling, Span
from saif.errors import InputError
from saif.presets.controls import MAX_STRENGTH, Controls
from saif.presets.preset import Preset
from saif.ui.choices import SPAN_CHOICES, first_choice, layer_choices, most_latents, preset_choices

_CONTROLS = Controls()


@dataclass(frozen=True)
class PanelValues:
    """The steering panel's values, named as its controls."""

    preset: str | None
    placement: Placement
    strength: float | None
    k: float | None
    layer: int | None
    span: Span
    with_prompted: bool
    temperature: float | None
    top_p: float | None
    repetition_penalty: float | None
    max_new_tokens: float | None
    seed: float | None

    @property
    def controls(self) -> Controls:
        """As `saif.presets.controls` takes them, which is what refuses a value out of range."""
        return Controls(
            placement=self.placement,
            strength=_given(self.strength, "The strength"),
            k=int(_given(self.k, "The number of latents")),
            layer=self.layer,
            span=self.span,
        )

    @property
    def sampling(self) -> Sampling:
        """Raises InputError on a value out of range."""
        return Sampling(
            max_new_tokens=int(_given(self.max_new_tokens, "The longest reply")),
            temperature=_given(self.temperature, "The temperature"),
            top_p=_given(self.top_p, "Top-p"),
            repetition_penalty=_given(self.repetition_penalty, "The repetition penalty"),
            seed=int(_given(self.seed, "The seed")),
        )


def _given(value: float | None, name: str) -> float:
    """The number, if its field wasn't left empty."""
    if value is None:
        raise InputError(f"{name} is empty.", hint="Give a number.")
    return value


@dataclass(frozen=True)
class SteeringPanel:
    preset: gr.Dropdown
    about: gr.HTML
    placement: gr.Radio
    strength: gr.Slider
    dose: gr.HTML
    with_prompted: gr.Checkbox

    k: gr.Slider
    layer: gr.Dropdown
    span: gr.Radio
    back: gr.Button
    latents: gr.HTML
    scores: gr.HTML

    temperature: gr.Slider
    top_p: gr.Slider
    repetition_penalty: gr.Slider
    max_new_tokens: gr.Slider
    seed: gr.Number

    @property
    def inputs(self) -> list[Component]:
        """What `PanelValues` is read from."""
        return [getattr(self, field.name) for field in fields(PanelValues)]


def steering_panel(cards: Mapping[str, Preset]) -> SteeringPanel:
    """The controls start at what calibration found for the first choice."""
    first, placed = first_choice(cards), _CONTROLS.placement
    card = cards[first] if first else None
    part = card.placements[placed] if card else None
    gr.HTML('<h2 class="panel-title">Steering</h2>', padding=False)
    made: dict[str, Any] = {
        "preset": gr.Dropdown(
            preset_choices(cards),
            value=first,
            label="Instruction",
            filterable=False,
            elem_id="preset",
        ),
        "about": gr.HTML(elem_id="about", padding=False),
        "placement": gr.Radio(
            [("After content", "post"), ("Before content", "pre")],
            value=placed,
            label="Placement",
            info="Where the instruction stood when its latents were found.",
            elem_id="placement",
        ),
        "strength": _slider(0, MAX_STRENGTH, _CONTROLS.strength, "Strength", elem_id="strength"),
        "dose": gr.HTML(elem_id="dose", padding=False),
        "with_prompted": gr.Checkbox(
            label="Show the prompted column",
            info="The same messages with the instruction put into words.",
            elem_id="with-prompted",
        ),
    }
    with gr.Accordion("Layer, latents, tokens", open=False, elem_id="fine"):
        most = most_latents(card, placed) if card else 2
        made["k"] = _slider(
            1,
            most,
            part.latents.k if part else 1,
            "Number of latents",
            step=1,
            info=f"Calibrated: {part.latents.k}." if part else "",
            elem_id="k",
        )
        made["layer"] = gr.Dropdown(
            layer_choices(card, placed) if card else [],
            value=part.choice.layer if part else None,
            label="Layer",
            info="The decoder block whose output is steered, counted from 0.",
            filterable=False,
            elem_id="layer",
        )
        made["span"] = gr.Radio(
            SPAN_CHOICES,
            value=part.choice.span if part else "response",
            label="Tokens steered",
            elem_id="span",
        )
        made["back"] = gr.Button("Back to calibrated", size="sm", elem_id="back")
    with gr.Accordion("Which latents steer", open=False, elem_id="latents-fold"):
        made["latents"] = gr.HTML(elem_id="latents", padding=False)
    with gr.Accordion("How well it works, measured", open=False, elem_id="scores-fold"):
        made["scores"] = gr.HTML(elem_id="scores", padding=False)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        made |= _sampling(Sampling())
    return SteeringPanel(**made)


def _sampling(start: Sampling) -> dict[str, Component]:
    random = "0 always takes the likeliest token. All columns share their random numbers."
    return {
        "temperature": _slider(0, 2, start.temperature, "Temperature", info=random),
        "top_p": _slider(0.05, 1, start.top_p, "Top-p"),
        "repetition_penalty": _slider(
            1, 2, start.repetition_penalty, "Repetition penalty", info="1 is off."
        ),
        "max_new_tokens": _slider(
            1, 512, start.max_new_tokens, "Longest reply", step=1, info="In tokens."
        ),
        "seed": gr.Number(value=start.seed, label="Seed", precision=0, minimum=0),
    }


def _slider(
    low: float, high: float, value: float, label: str, *, step: float = 0.05, **more: Any
) -> gr.Slider:
    return gr.Slider(low, high, value=value, label=label, step=step, buttons=[], **more)
