"""Wire the panels to the services. No maths, no files, no model calls of its own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from saif.core.spec import Placement
from saif.presets.preset import Preset
from saif.ui.chat_panel import chat_panel
from saif.ui.choices import first_choice, layer_choices, most_latents
from saif.ui.describe import (
    about_line,
    dose_line,
    latents_table,
    problems_line,
    pushed_latents,
    scores_table,
    status_line,
)
from saif.ui.errors import explain
from saif.ui.services import Services, no_preset
from saif.ui.steering_panel import SteeringPanel, steering_panel
from saif.ui.turns import Turns

_QUIET: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""For events that only change what the panel shows."""

_CLOSE_PANEL_ON_PHONES = """() => {
  if (innerWidth < 768) document.querySelector('#steering.open .toggle-button')?.click()
}"""

MAX_WAITING = 16
"""Visitors who may wait for the model; one more is told that the queue is full."""


def build_app(services: Services) -> gr.Blocks:
    """The page. `services.engine` may still be loading: the page doesn't need it to be served."""
    cards, problems = services.cards()
    if not cards:
        problems.append(no_preset(services.model_id).sentence)
    with gr.Blocks(title="SAIF", analytics_enabled=False, fill_height=True) as app:
        steering = steering_panel(cards)
        chat = chat_panel(
            _examples(services, cards.get(first_choice(cards) or "")), problems_line(problems)
        )
        turns = Turns(services, cards, chat, gr.State(()), gr.State(None))
        _wire_turns(turns, steering)
        _wire_panel(app, services, cards, steering, chat.examples)
        steering.with_prompted.change(
            lambda on: gr.Column(visible=on),
            steering.with_prompted,
            chat.prompted_column,
            **_QUIET,
        )
        app.load(js=_CLOSE_PANEL_ON_PHONES)
        app.load(_watch(services), outputs=chat.status, concurrency_limit=None, **_SILENT)
    app.queue(max_size=MAX_WAITING)
    return app


_SILENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def _wire_turns(turns: Turns, steering: SteeringPanel) -> None:
    chat = turns.chat
    model: dict[str, Any] = {
        "outputs": turns.outputs,
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "show_progress": "minimal",
        "show_progress_on": chat.status,
    }
    gr.on(
        [chat.message.submit, chat.send.click],
        turns.ask,
        inputs=[chat.message, turns.talk, *steering.inputs],
        api_name="ask",
        **model,
    )
    chat.retry.click(turns.again, inputs=[turns.talk, *steering.inputs], api_name="retry", **model)
    chat.stop.click(
        turns.stop, turns.run, None, queue=False, show_progress="hidden", api_name="stop"
    )
    chat.clear.click(
        turns.clear, None, turns.outputs, queue=False, show_progress="hidden", api_name="clear"
    )
    chat.examples.click(lambda sample: sample[0], chat.examples, chat.message, **_QUIET)


def _wire_panel(
    app: gr.Blocks,
    services: Services,
    cards: dict[str, Preset],
    panel: SteeringPanel,
    examples: gr.Dataset,
) -> None:
    """Keep the panel in step with itself: read-outs follow controls, a preset brings its own."""
    push, fine = panel.push, panel.fine

    def choose(name: str | None, placement: Placement) -> list[Any]:
        if name is None:
            return [gr.skip()] * 6
        card = cards[name]
        choice = card.placements[placement].choice
        return [
            about_line(services.library.instruction(card.instruction).description),
            gr.Slider(
                value=choice.k,
                maximum=most_latents(card, placement),
                info=f"Calibrated: {choice.k}.",
            ),
            gr.Dropdown(layer_choices(card, placement), value=choice.layer),
            choice.span,
            scores_table(card, placement),
            gr.Dataset(samples=[[text] for text in _examples(services, card)]),
        ]

    def read_out(
        name: str | None, placement: Placement, strength: float, k: int, layer: int | None
    ) -> list[Any]:
        if name is None or layer not in cards[name].placements[placement].layer_numbers:
            return [gr.skip(), gr.skip()]
        latents = pushed_latents(cards[name], placement, layer, int(k))
        return [
            dose_line(cards[name], placement, strength),
            latents_table(latents, strength=strength),
        ]

    chosen = [push.about, fine.k, fine.layer, fine.span, panel.scores, examples]
    shown: dict[str, Any] = {
        "fn": read_out,
        "inputs": [push.preset, push.placement, push.strength, fine.k, fine.layer],
        "outputs": [push.dose, panel.latents],
        **_QUIET,
    }
    gr.on(
        [app.load, push.preset.input, push.placement.input],
        choose,
        [push.preset, push.placement],
        chosen,
        **_QUIET,
    ).then(**shown)
    fine.back.click(lambda: 1.0, None, push.strength, **_QUIET).then(
        choose, [push.preset, push.placement], chosen, **_QUIET
    ).then(**shown)
    gr.on(
        [push.strength.change, fine.k.input, fine.layer.input],
        trigger_mode="always_last",
        **shown,
    )


def _examples(services: Services, card: Preset | None) -> list[str]:
    """Messages to try with this preset."""
    return services.library.instruction(card.instruction).examples[:4] if card else []


def _watch(services: Services) -> Any:
    """A handler that tells each visitor when the model is ready, or why it never will be."""

    async def watch() -> AsyncIterator[str]:
        while not services.engine.done():
            yield status_line(services.model_id, "loading")
            await asyncio.sleep(0.25)
        error = services.engine.exception()
        if error is None:
            yield status_line(services.model_id, "ready")
        else:
            yield status_line(services.model_id, "failed", explain(error))

    return watch
