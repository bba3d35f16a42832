"""Layout of what the machine's owner finds in the panel: another model, and building presets.
Nothing is wired here."""

from dataclasses import dataclass
from typing import Any

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
class AdminPanel:
    build_fold: gr.Accordion
    instruction: gr.Dropdown
    effort: gr.Radio
    cost: gr.HTML
    start: gr.Button
    progress: gr.HTML
    cancel: gr.Button

    model_fold: gr.Accordion
    model: gr.Dropdown
    about: gr.HTML
    quantize: gr.Dropdown
    load: gr.Button


def admin_panel(model_name: str, *, without_presets: bool) -> AdminPanel:
    with gr.Accordion("Make a preset", open=without_presets, elem_id="make-fold") as build_fold:
        build: dict[str, Any] = {
            "instruction": gr.Dropdown(
                [],
                label="Instruction to find in this model",
                info="Its latents are found, tried out and measured.",
                filterable=False,
                elem_id="make-instruction",
            ),
            "effort": gr.Radio(
                [("Quick", "quick"), ("Thorough", "thorough")],
                value="quick",
                label="Search",
                elem_id="make-effort",
            ),
            "cost": gr.HTML(elem_id="make-cost", padding=False),
            "start": gr.Button("Make this preset", size="sm", elem_id="make"),
            "progress": gr.HTML(elem_id="make-progress", padding=False),
            "cancel": gr.Button("Cancel", size="sm", visible=False, elem_id="make-cancel"),
        }
    with gr.Accordion("Model", open=False, elem_id="model-fold") as model_fold:
        return AdminPanel(
            **build,
            build_fold=build_fold,
            model_fold=model_fold,
            model=gr.Dropdown(
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
