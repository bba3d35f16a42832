"""Layout of what the machine's owner finds in the panel: another model, and building presets.
Nothing is wired here."""

from dataclasses import dataclass

import gradio as gr

from saif.runtime.catalog import MODELS
from saif.runtime.load import QuantizeOrAuto

BITS: list[tuple[str, QuantizeOrAuto]] = [
    ("As many bits as fit", "auto"),
    ("Full precision", "none"),
    ("8 bits", "int8"),
    ("4 bits", "4bit"),
]


@dataclass(frozen=True)
class ModelControls:
    fold: gr.Accordion
    name: gr.Dropdown
    about: gr.HTML
    quantize: gr.Dropdown
    load: gr.Button


@dataclass(frozen=True)
class BuildControls:
    fold: gr.Accordion
    instruction: gr.Dropdown
    effort: gr.Radio
    cost: gr.HTML
    start: gr.Button
    cancel: gr.Button
    progress: gr.HTML


@dataclass(frozen=True)
class AdminPanel:
    model: ModelControls
    build: BuildControls


def admin_panel(model_name: str, *, without_presets: bool) -> AdminPanel:
    with gr.Accordion("Make a preset", open=without_presets, elem_id="make-fold") as fold:
        build = BuildControls(
            fold=fold,
            instruction=gr.Dropdown(
                [],
                label="Instruction to find in this model",
                info="Its latents are found, tried out and measured.",
                filterable=False,
                elem_id="make-instruction",
            ),
            effort=gr.Radio(
                [("Quick", "quick"), ("Thorough", "thorough")],
                value="quick",
                label="Search",
                elem_id="make-effort",
            ),
            cost=gr.HTML(elem_id="make-cost", padding=False),
            start=gr.Button("Make this preset", size="sm", elem_id="make"),
            progress=gr.HTML(elem_id="make-progress", padding=False),
            cancel=gr.Button("Cancel", size="sm", visible=False, elem_id="make-cancel"),
        )
    with gr.Accordion("Model", open=False, elem_id="model-fold") as model_fold:
        model = ModelControls(
            fold=model_fold,
            name=gr.Dropdown(
                [entry.name for entry in MODELS],
                value=model_name,
                label="Model",
                info="Or type a hub id or a folder.",
                allow_custom_value=True,
                elem_id="model",
            ),
            about=gr.HTML(elem_id="model-about", padding=False),
            quantize=gr.Dropdown(
                BITS, value="auto", label="Weights", filterable=False, elem_id="quantize"
            ),
            load=gr.Button("Load this model", size="sm", elem_id="load"),
        )
    return AdminPanel(model, build)
