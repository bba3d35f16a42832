"""Wire the panels to the services. No maths, no files, no model calls of its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.events import Dependency

from saif.ui.admin.handlers import AdminHandlers
from saif.ui.admin.panel import admin_panel
from saif.ui.admin.service import ModelAdmin
from saif.ui.chat_handlers import ChatHandlers
from saif.ui.chat_panel import chat_panel
from saif.ui.describe import problems_line
from saif.ui.services import Services
from saif.ui.status import current_status, watch_status
from saif.ui.steering_handlers import SteeringHandlers
from saif.ui.steering_panel import steering_panel

MAX_ANSWERED, MAX_WAITING = 64, 64
"""Visitors whose turns are taken at once, as rows of one running batch for as many as there is room
for, and who may wait for that; one more is told that the queue is full."""

_HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_QUIET: dict[str, Any] = {"queue": False, **_HIDDEN}
"""For events that only change what the page shows."""

_CLOSE_PANEL_ON_PHONES = """() => {
  if (innerWidth < 768) document.querySelector('#steering.open .toggle-button')?.click()
}"""


def build_app(services: Services, admin: ModelAdmin | None = None) -> gr.Blocks:
    """The page. The engine may still be loading: the page doesn't need it to be served.

    admin: for a page whose visitor owns the machine.
    """
    cards, problems = services.offer()
    with gr.Blocks(title="SAIF", analytics_enabled=False, fill_height=True) as app:
        with gr.Sidebar(label="Steering", width=352, elem_id="steering"):
            panel = steering_panel(cards)
            controls = admin and admin_panel(admin.loaded[0], without_presets=not cards)
        chat = chat_panel(current_status(services), problems_line(problems))
        steering = SteeringHandlers(services, panel)
        shown_model = gr.State(None)
        chatting = ChatHandlers(services, chat, panel, gr.State(()), gr.State(None), shown_model)
        _wire_chat(chatting)
        app.unload(chatting.close)
        reload_presets: dict[str, Any] = {
            "fn": steering.renew,
            "outputs": [shown_model, panel.preset, chat.notice],
            **_QUIET,
        }
        refresh_panel = _wire_panel(steering, chat.examples)
        refresh_panel(app.load(**reload_presets))
        panel.with_prompted.change(
            lambda on: gr.Column(visible=on), panel.with_prompted, chat.prompted_column, **_QUIET
        )
        app.load(js=_CLOSE_PANEL_ON_PHONES)
        app.load(
            partial(watch_status, services), outputs=chat.status, concurrency_limit=None, **_HIDDEN
        )
        if admin and controls:
            administering = AdminHandlers(admin, controls, chatting, steering)
            _wire_admin(app, administering, reload_presets, refresh_panel)
    app.queue(max_size=MAX_WAITING)
    return app


def _wire_chat(handlers: ChatHandlers) -> None:
    chat = handlers.chat
    model: dict[str, Any] = {
        "outputs": handlers.outputs,
        "concurrency_id": "model",
        "concurrency_limit": MAX_ANSWERED,
        "show_progress": "minimal",
        "show_progress_on": chat.status,
    }
    gr.on(
        [chat.message.submit, chat.send.click],
        handlers.ask,
        inputs=[chat.message, handlers.history, handlers.shown_model, *handlers.panel.inputs],
        api_name="ask",
        **model,
    )
    chat.retry.click(
        handlers.retry,
        inputs=[handlers.history, handlers.shown_model, *handlers.panel.inputs],
        api_name="retry",
        **model,
    )
    at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    chat.stop.click(handlers.stop, handlers.cancel_token, None, api_name="stop", **at_once)
    chat.clear.click(handlers.clear, None, handlers.outputs, api_name="clear", **at_once)
    chat.examples.click(lambda sample: sample[0], chat.examples, chat.message, **_QUIET)


def _wire_panel(handlers: SteeringHandlers, examples: gr.Dataset) -> Callable[[Dependency], None]:
    """Keep the panel in step with itself. Gives what does so after an event that changed the
    choice of presets."""
    panel = handlers.panel
    chosen: dict[str, Any] = {
        "fn": handlers.choose,
        "inputs": [panel.preset, panel.placement],
        "outputs": [panel.about, panel.k, panel.layer, panel.span, panel.scores, examples],
        **_QUIET,
    }
    dose: dict[str, Any] = {
        "fn": handlers.dose,
        "inputs": [panel.preset, panel.placement, panel.strength],
        "outputs": panel.dose,
        **_QUIET,
    }
    latents: dict[str, Any] = {
        "fn": handlers.latents,
        "inputs": [panel.preset, panel.placement, panel.strength, panel.k, panel.layer],
        "outputs": panel.latents,
        **_QUIET,
    }

    def refresh_panel(event: Dependency) -> None:
        # The latents' order needs torch, the dose doesn't.
        event.then(**chosen).then(**dose).then(**latents)

    gr.on([panel.preset.input, panel.placement.input], **chosen).then(**dose).then(**latents)
    refresh_panel(panel.back.click(lambda: 1.0, None, panel.strength, **_QUIET))
    panel.strength.change(trigger_mode="always_last", **dose)
    gr.on(
        [panel.strength.change, panel.k.input, panel.layer.input],
        trigger_mode="always_last",
        **latents,
    )
    return refresh_panel


def _wire_admin(
    app: gr.Blocks,
    handlers: AdminHandlers,
    reload_presets: dict[str, Any],
    refresh_panel: Callable[[Dependency], None],
) -> None:
    """What the owner's controls do. Nothing here waits for another visitor's turn."""
    panel, status = handlers.controls, handlers.chat.chat.status
    unlimited: dict[str, Any] = {"concurrency_limit": None, **_HIDDEN}
    buildable: dict[str, Any] = {
        "fn": handlers.buildable,
        "outputs": [panel.instruction, panel.start, panel.cost, panel.build_fold],
        **_QUIET,
    }
    inputs = [panel.instruction, panel.effort]

    gr.on(
        [panel.model_fold.expand, panel.model.input],
        handlers.model_info,
        panel.model,
        panel.about,
        **unlimited,
    )
    changed = panel.load.click(
        handlers.change_model,
        [panel.model, panel.quantize],
        [*handlers.chat.outputs, status, panel.load],
        show_progress_on=status,
        **unlimited,
    ).success(**reload_presets)
    refresh_panel(changed)
    for event in (changed.then(**buildable), app.load(**buildable)):
        event.then(handlers.cost_if_none, inputs, panel.cost, **unlimited)
    gr.on(
        [panel.build_fold.expand, panel.instruction.input, panel.effort.input],
        handlers.cost,
        inputs,
        panel.cost,
        **unlimited,
    )
    refresh_panel(panel.start.click(handlers.build, inputs, handlers.build_outputs, **unlimited))
    panel.cancel.click(handlers.cancel, None, None, **_QUIET)
    app.load(handlers.watch_build, None, handlers.build_outputs, **unlimited)
