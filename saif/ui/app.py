"""Wire the panels to the services. No maths, no files, no model calls of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from saif.ui.chat_panel import chat_panel
from saif.ui.describe import problems_line, status_line
from saif.ui.errors import explain
from saif.ui.panel_handlers import PanelHandlers
from saif.ui.services import Services, no_preset
from saif.ui.steering_panel import steering_panel
from saif.ui.turns import Turns

MAX_WAITING = 16
"""Visitors who may wait for the model; one more is told that the queue is full."""

_HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_QUIET: dict[str, Any] = {"queue": False, **_HIDDEN}
"""For events that only change what the page shows."""

_WATCH_SECONDS = 0.25

_CLOSE_PANEL_ON_PHONES = """() => {
  if (innerWidth < 768) document.querySelector('#steering.open .toggle-button')?.click()
}"""


def build_app(services: Services) -> gr.Blocks:
    """The page. `services.engine` may still be loading: the page doesn't need it to be served."""
    cards, problems = services.cards()
    if not cards and not problems:
        problems = [no_preset(services.model_id).sentence]
    with gr.Blocks(title="SAIF", analytics_enabled=False, fill_height=True) as app:
        panel = steering_panel(cards)
        chat = chat_panel(_head(services), problems_line(problems))
        handlers = PanelHandlers(services, cards, panel, chat.examples)
        _wire_turns(Turns(services, chat, panel, talk=gr.State(()), run=gr.State(None)))
        _wire_panel(app, handlers)
        panel.with_prompted.change(
            lambda on: gr.Column(visible=on), panel.with_prompted, chat.prompted_column, **_QUIET
        )
        app.load(js=_CLOSE_PANEL_ON_PHONES)
        app.load(_watch(services), outputs=chat.status, concurrency_limit=None, **_HIDDEN)
    app.queue(max_size=MAX_WAITING)
    return app


def _wire_turns(turns: Turns) -> None:
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
        inputs=[chat.message, turns.talk, *turns.panel.inputs],
        api_name="ask",
        **model,
    )
    chat.retry.click(
        turns.again, inputs=[turns.talk, *turns.panel.inputs], api_name="retry", **model
    )
    chat.stop.click(
        turns.stop, turns.run, None, queue=False, show_progress="hidden", api_name="stop"
    )
    chat.clear.click(
        turns.clear, None, turns.outputs, queue=False, show_progress="hidden", api_name="clear"
    )
    chat.examples.click(lambda sample: sample[0], chat.examples, chat.message, **_QUIET)


def _wire_panel(app: gr.Blocks, handlers: PanelHandlers) -> None:
    """Keep the panel in step with itself."""
    push, fine = handlers.panel.push, handlers.panel.fine
    chosen: dict[str, Any] = {
        "fn": handlers.choose,
        "inputs": handlers.choice_inputs,
        "outputs": handlers.choice_outputs,
        **_QUIET,
    }
    dose: dict[str, Any] = {
        "fn": handlers.dose,
        "inputs": [push.preset, push.placement, push.strength],
        "outputs": push.dose,
        **_QUIET,
    }
    latents: dict[str, Any] = {
        "fn": handlers.latents,
        "inputs": [push.preset, push.placement, push.strength, fine.k, fine.layer],
        "outputs": handlers.panel.latents,
        **_QUIET,
    }
    renewed = gr.on([app.load, push.preset.input, push.placement.input], **chosen)
    back = fine.back.click(lambda: 1.0, None, push.strength, **_QUIET).then(**chosen)
    for event in (renewed, back):
        event.then(**dose).then(**latents)  # the latents' order needs torch, the dose doesn't
    push.strength.change(trigger_mode="always_last", **dose)
    gr.on(
        [push.strength.change, fine.k.input, fine.layer.input],
        trigger_mode="always_last",
        **latents,
    )


def _watch(services: Services) -> Callable[[], AsyncIterator[str]]:
    """A handler that tells each visitor when the model is ready, or why it never will be."""

    async def watch() -> AsyncIterator[str]:
        yield _head(services)
        while not services.engine.done():
            await asyncio.sleep(_WATCH_SECONDS)
        yield _head(services)

    return watch


def _head(services: Services) -> str:
    if not services.engine.done():
        return status_line(services.model_id, "loading")
    error = services.engine.exception()
    if error is not None:
        return status_line(services.model_id, "failed", explain(error))
    return status_line(services.model_id, "ready", services.engine.result().about)
