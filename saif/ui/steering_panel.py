"""Layout of the steering panel, and the values read back from it. Nothing is wired here."""

from collections.abc import Mapping
from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from saif.core.types import Placement, Sampling, Span
from saif.errors import InputError
from saif.presets.controls import MAX_STRENGTH, Controls
from saif.presets.preset import Preset
from saif.ui.choices import SPAN_CHOICES, first_choice, layer_choices, most_latents, preset_choices

_SAMPLING = Sampling()
_CONTROLS = Controls()


@dataclass(frozen=True)
class PanelValues:
    """The steering panel's values, in the order of `SteeringPanel.inputs`."""

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
class MainControls:
    """What to steer towards, and how hard."""

    preset: gr.Dropdown
    about: gr.HTML
    placement: gr.Radio
    strength: gr.Slider
    dose: gr.HTML


@dataclass(frozen=True)
class FineControls:
    """How the direction is made and where it is added; calibration has set these well."""

    k: gr.Slider
    layer: gr.Dropdown
    span: gr.Radio
    back: gr.Button


@dataclass(frozen=True)
class SamplingControls:
    temperature: gr.Slider
    top_p: gr.Slider
    repetition_penalty: gr.Slider
    max_new_tokens: gr.Slider
    seed: gr.Number


@dataclass(frozen=True)
class SteeringPanel:
    main: MainControls
    with_prompted: gr.Checkbox
    fine: FineControls
    latents: gr.HTML
    scores: gr.HTML
    sampling: SamplingControls

    @property
    def inputs(self) -> list[Component]:
        main, fine, sampling = self.main, self.fine, self.sampling
        return [
            main.preset,
            main.placement,
            main.strength,
            fine.k,
            fine.layer,
            fine.span,
            self.with_prompted,
            sampling.temperature,
            sampling.top_p,
            sampling.repetition_penalty,
            sampling.max_new_tokens,
            sampling.seed,
        ]


def sidebar() -> gr.Sidebar:
    """Where the panel stands; to be used in a `with`."""
    return gr.Sidebar(label="Steering", width=352, elem_id="steering")


def steering_panel(cards: Mapping[str, Preset]) -> SteeringPanel:
    first = first_choice(cards)
    gr.HTML('<h2 class="panel-title">Steering</h2>', padding=False)
    main = _main(cards, first)
    with_prompted = gr.Checkbox(
        value=False,
        label="Show the prompted column",
        info="The same messages with the instruction put into words.",
        elem_id="with-prompted",
    )
    with gr.Accordion("Layer, latents, tokens", open=False, elem_id="fine"):
        fine = _fine(cards[first] if first else None)
    with gr.Accordion("Which latents steer", open=False, elem_id="latents-fold"):
        latents = gr.HTML(elem_id="latents", padding=False)
    with gr.Accordion("How well it works, measured", open=False, elem_id="scores-fold"):
        scores = gr.HTML(elem_id="scores", padding=False)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        sampling = _sampling(_SAMPLING)
    return SteeringPanel(main, with_prompted, fine, latents, scores, sampling)


def _main(cards: Mapping[str, Preset], first: str | None) -> MainControls:
    return MainControls(
        preset=gr.Dropdown(
            preset_choices(cards),
            value=first,
            label="Instruction",
            filterable=False,
            elem_id="preset",
        ),
        about=gr.HTML(elem_id="about", padding=False),
        placement=gr.Radio(
            [("After content", "post"), ("Before content", "pre")],
            value=_CONTROLS.placement,
            label="Placement",
            info="Where the instruction stood when its latents were found.",
            elem_id="placement",
        ),
        strength=gr.Slider(
            0,
            MAX_STRENGTH,
            value=_CONTROLS.strength,
            step=0.05,
            label="Strength",
            elem_id="strength",
            buttons=[],
        ),
        dose=gr.HTML(elem_id="dose", padding=False),
    )


def _fine(card: Preset | None) -> FineControls:
    """They start at what calibration found."""
    placement = _CONTROLS.placement
    part = card.placements[placement] if card else None
    return FineControls(
        k=gr.Slider(
            1,
            most_latents(card, placement) if card else 2,
            value=part.latents.k if part else 1,
            step=1,
            label="Number of latents",
            info=f"Calibrated: {part.latents.k}." if part else "",
            elem_id="k",
            buttons=[],
        ),
        layer=gr.Dropdown(
            layer_choices(card, placement) if card else [],
            value=part.choice.layer if part else None,
            label="Layer",
            info="The decoder block whose output is steered, counted from 0.",
            filterable=False,
            elem_id="layer",
        ),
        span=gr.Radio(
            SPAN_CHOICES,
            value=part.choice.span if part else "response",
            label="Tokens steered",
            elem_id="span",
        ),
        back=gr.Button("Back to calibrated", size="sm", elem_id="back"),
    )


def _sampling(start: Sampling) -> SamplingControls:
    return SamplingControls(
        temperature=gr.Slider(
            0,
            2,
            value=start.temperature,
            step=0.05,
            label="Temperature",
            info="0 always takes the likeliest token. All columns share their random numbers.",
            buttons=[],
        ),
        top_p=gr.Slider(0.05, 1, value=start.top_p, step=0.05, label="Top-p", buttons=[]),
        repetition_penalty=gr.Slider(
            1,
            2,
            value=start.repetition_penalty,
            step=0.05,
            label="Repetition penalty",
            info="1 is off.",
            buttons=[],
        ),
        max_new_tokens=gr.Slider(
            1,
            512,
            value=start.max_new_tokens,
            step=1,
            label="Longest reply",
            info="In tokens.",
            buttons=[],
        ),
        seed=gr.Number(value=start.seed, label="Seed", precision=0, minimum=0),
    )
