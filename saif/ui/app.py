"""Wire the panels to the services. No maths, no files, no model calls of its own."""

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.events import Dependency

from saif.ui.admin.handlers import AdminHandlers
from saif.ui.admin.panel import admin_panel
from saif.ui.admin.service import Admin
from saif.ui.chat_handlers import ChatHandlers
from saif.ui.chat_panel import chat_panel
from saif.ui.describe import problems_line
from saif.ui.services import Services
from saif.ui.status import head, watch
from saif.ui.steering_handlers import SteeringHandlers
from saif.ui.steering_panel import sidebar, steering_panel

MAX_ANSWERED, MAX_WAITING = 64, 64
"""Visitors whose turns are taken at once, as rows of one running batch for as many as there is room
for, and who may wait for that; one more is told that the queue is full."""

_HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_QUIET: dict[str, Any] = {"queue": False, **_HIDDEN}
"""For events that only change what the page shows."""

_CLOSE_PANEL_ON_PHONES = """() => {
  if (innerWidth < 768) document.querySelector('#steering.open .toggle-button')?.click()
}"""


def build_app(services: Services, admin: Admin | None = None) -> gr.Blocks:
    """The page. The engine may still be loading: the page doesn't need it to be served.

    admin: for a page whose visitor owns the machine.
    """
    makeable = admin is not None
    cards, problems = services.offer(makeable=makeable)
    with gr.Blocks(title="SAIF", analytics_enabled=False, fill_height=True) as app:
        with sidebar():
            panel = steering_panel(cards)
            tools = admin and admin_panel(admin.asked[0], without_presets=not cards)
        chat = chat_panel(head(services), problems_line(problems))
        handlers = SteeringHandlers(services, panel, chat.examples, makeable)
        shown = gr.State(None)
        turns = ChatHandlers(services, chat, panel, gr.State(()), gr.State(None), shown, makeable)
        _wire_turns(turns)
        app.unload(turns.leave)
        renew: dict[str, Any] = {
            "fn": handlers.renew,
            "outputs": [shown, panel.main.preset, chat.notice],
            **_QUIET,
        }
        settle = _wire_panel(handlers)
        settle(app.load(**renew))
        panel.with_prompted.change(
            lambda on: gr.Column(visible=on), panel.with_prompted, chat.prompted_column, **_QUIET
        )
        app.load(js=_CLOSE_PANEL_ON_PHONES)
        app.load(watch(services), outputs=chat.status, concurrency_limit=None, **_HIDDEN)
        if admin and tools:
            owner = AdminHandlers(admin, tools, turns, handlers)
            _wire_workshop(app, owner, renew, settle)
    app.queue(max_size=MAX_WAITING)
    return app


def _wire_turns(turns: ChatHandlers) -> None:
    chat = turns.chat
    model: dict[str, Any] = {
        "outputs": turns.outputs,
        "concurrency_id": "model",
        "concurrency_limit": MAX_ANSWERED,
        "show_progress": "minimal",
        "show_progress_on": chat.status,
    }
    gr.on(
        [chat.message.submit, chat.send.click],
        turns.ask,
        inputs=[chat.message, turns.talk, turns.shown, *turns.panel.inputs],
        api_name="ask",
        **model,
    )
    chat.retry.click(
        turns.again,
        inputs=[turns.talk, turns.shown, *turns.panel.inputs],
        api_name="retry",
        **model,
    )
    chat.stop.click(
        turns.stop, turns.run, None, queue=False, show_progress="hidden", api_name="stop"
    )
    chat.clear.click(
        turns.clear, None, turns.outputs, queue=False, show_progress="hidden", api_name="clear"
    )
    chat.examples.click(lambda sample: sample[0], chat.examples, chat.message, **_QUIET)


def _wire_panel(handlers: SteeringHandlers) -> Callable[[Dependency], None]:
    """Keep the panel in step with itself. Gives what does so after an event that changed the
    choice of presets."""
    main, fine = handlers.panel.main, handlers.panel.fine
    chosen: dict[str, Any] = {
        "fn": handlers.choose,
        "inputs": handlers.choice_inputs,
        "outputs": handlers.choice_outputs,
        **_QUIET,
    }
    dose: dict[str, Any] = {
        "fn": handlers.dose,
        "inputs": [main.preset, main.placement, main.strength],
        "outputs": main.dose,
        **_QUIET,
    }
    latents: dict[str, Any] = {
        "fn": handlers.latents,
        "inputs": [main.preset, main.placement, main.strength, fine.k, fine.layer],
        "outputs": handlers.panel.latents,
        **_QUIET,
    }

    def settle(event: Dependency) -> None:
        # The latents' order needs torch, the dose doesn't.
        event.then(**chosen).then(**dose).then(**latents)

    gr.on([main.preset.input, main.placement.input], **chosen).then(**dose).then(**latents)
    settle(fine.back.click(lambda: 1.0, None, main.strength, **_QUIET))
    main.strength.change(trigger_mode="always_last", **dose)
    gr.on(
        [main.strength.change, fine.k.input, fine.layer.input],
        trigger_mode="always_last",
        **latents,
    )
    return settle


def _wire_workshop(
    app: gr.Blocks,
    handlers: AdminHandlers,
    renew: dict[str, Any],
    settle: Callable[[Dependency], None],
) -> None:
    """What the owner's controls do. Nothing here waits for another visitor's turn."""
    model, making = handlers.tools.model, handlers.tools.making
    side: dict[str, Any] = {"concurrency_limit": None, **_HIDDEN}
    offer: dict[str, Any] = {"fn": handlers.offer, "outputs": handlers.offer_outputs, **_QUIET}
    asked = [making.instruction, making.effort]

    gr.on([model.fold.expand, model.name.input], handlers.about, model.name, model.about, **side)
    changed = model.load.click(
        handlers.change,
        [model.name, model.quantize],
        handlers.change_outputs,
        show_progress_on=handlers.turns.chat.status,
        **side,
    ).success(**renew)
    settle(changed)
    for event in (changed.then(**offer), app.load(**offer)):
        event.then(handlers.cost_if_without, asked, making.cost, **side)
    gr.on(
        [making.fold.expand, making.instruction.input, making.effort.input],
        handlers.cost,
        asked,
        making.cost,
        **side,
    )
    settle(making.make.click(handlers.make, asked, handlers.making_outputs, **side))
    making.cancel.click(handlers.cancel, None, None, **_QUIET)
    app.load(handlers.follow, None, handlers.making_outputs, **side)
