"""One visitor's turns: what Send, Retry, Stop and Clear do.

A turn runs in a thread of its own; the handler only passes on where it stands. Nothing here
holds the model, so ending a handler anywhere is safe.
"""

import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from saif.ui.chat_panel import ChatPanel
from saif.ui.chat_view import (
    CancelToken,
    Exchange,
    History,
    column_view,
    without_empty,
)
from saif.ui.describe import problems_line
from saif.ui.errors import as_page_error
from saif.ui.services import Services
from saif.ui.steering_panel import PanelValues, SteeringPanel
from saif.ui.streaming import newest

Updates = dict[Any, Any]
"""Component -> its update; what isn't named stays as it is."""


@dataclass(frozen=True)
class ChatHandlers:
    """The handlers of one chat, and the components they write."""

    services: Services
    chat: ChatPanel
    panel: SteeringPanel

    history: gr.State
    """Of History."""

    cancel_token: gr.State
    """Of CancelToken | None: ends the reply that is being written."""

    shown_model: gr.State
    """The id of the model that the page shows."""

    @property
    def outputs(self) -> list[Any]:
        chat = self.chat
        return [
            self.history,
            self.cancel_token,
            chat.unsteered,
            chat.steered,
            chat.prompted,
            chat.notice,
            chat.message,
            chat.send,
            chat.stop,
            chat.retry,
            chat.clear,
            chat.examples,
        ]

    async def ask(
        self,
        request: gr.Request,
        text: str,
        history: History,
        shown_model: str | None,
        *values: Any,
    ) -> AsyncGenerator[Updates, None]:
        """Answer a message; it goes back into the box if nothing comes of it."""
        turn = self._answer(request, text or "", history, shown_model, values)
        async with contextlib.aclosing(turn) as updates:
            async for update in updates:
                yield update

    async def retry(
        self, request: gr.Request, history: History, shown_model: str | None, *values: Any
    ) -> AsyncGenerator[Updates, None]:
        """Answer the last message once more; the old answer stays if nothing comes of it."""
        base, text = history[:-1], history[-1].text if history else ""
        turn = self._answer(request, text, base, shown_model, values, retried=history)
        async with contextlib.aclosing(turn) as updates:
            async for update in updates:
                yield update

    def stop(self, token: CancelToken | None) -> None:
        if token is not None:
            token.cancel.set()

    def clear(self, request: gr.Request) -> Updates:
        self.services.forget(request.session_hash)
        return self.empty_page()

    def empty_page(self) -> Updates:
        """The page without a conversation."""
        return {**self._views(()), **self._idle(()), self.chat.notice: ""}

    def close(self, request: gr.Request) -> None:
        """The page was closed."""
        self.services.forget(request.session_hash)

    async def _answer(
        self,
        request: gr.Request,
        text: str,
        history: History,
        shown_model: str | None,
        values: Sequence[Any],
        *,
        retried: History | None = None,
    ) -> AsyncGenerator[Updates, None]:
        """retried: what `history` was before its last turn was taken back to be answered again;
        the message box is left alone then."""
        token = CancelToken()
        after = fallback = history if retried is None else retried
        box = {} if retried is not None else {self.chat.message: text}
        # Emptied once: the next message may be typed meanwhile.
        yield {**self._busy(token), **self._views(history, waiting=text), **dict.fromkeys(box, "")}
        cache_key = self.services.cache_key(request.session_hash)
        panel = PanelValues(*values)
        steps = partial(self._steps, cache_key, text, history, shown_model, panel, token.cancel)
        try:
            async with contextlib.aclosing(newest(steps, token.cancel)) as exchanges:
                async for exchange in exchanges:
                    after = (*history, exchange)
                    yield self._views(after, running=True)
        except Exception as error:
            problem = as_page_error(error)
            yield {
                **self._views(fallback),
                **self._idle(fallback),
                self.chat.notice: problems_line([problem.message]),
                **box,
            }
            raise problem from error
        finally:
            token.cancel.set()
        kept = without_empty(after)
        no_reply = len(kept) <= len(history)
        after = fallback if no_reply else kept
        yield {**self._views(after), **self._idle(after), **(box if no_reply else {})}

    def _steps(
        self,
        cache_key: str,
        text: str,
        history: History,
        shown_model: str | None,
        values: PanelValues,
        cancel: threading.Event,
    ) -> Iterator[Exchange]:
        """The turn, step by step; runs in its own thread. Refuses before it waits."""
        from saif.chat import Comparison, Turn, check_message, take_turn

        check_message(text)
        services = self.services
        current = services.model_shown(shown_model)
        if values.preset is None:
            raise services.no_preset(current.model_id)
        loaded = services.library.preset(current.model_id, values.preset)
        turn = Turn(
            text=text,
            preset=loaded,
            instruction=services.library.instruction(loaded.preset.instruction),
            controls=values.controls,
            sampling=values.sampling,
            with_prompted=values.with_prompted,
            cache_key=cache_key,
        )
        engine = current.wait_for_engine(cancel.is_set)
        if engine is None:
            return
        before = history[-1].state.comparison if history else Comparison()
        with services.replying():
            for state in take_turn(engine, before, turn, cancelled=cancel.is_set):
                yield Exchange(text, loaded.preset.title, values.placement, before, state)

    def _views(self, history: History, *, running: bool = False, waiting: str = "") -> Updates:
        note = "" if self.services.current.engine.done() else "The model is still loading…"
        show = partial(column_view, history, running=running, waiting=waiting, note=note)
        return {
            self.history: history,
            self.chat.unsteered: show("unsteered"),
            self.chat.steered: show("steered"),
            self.chat.prompted: show("prompted"),
        }

    def _busy(self, token: CancelToken) -> Updates:
        chat = self.chat
        return {
            self.cancel_token: token,
            chat.notice: "",
            chat.send: gr.Button(visible=False),
            chat.stop: gr.Button(visible=True),
            chat.retry: gr.Button(interactive=False),
            chat.clear: gr.Button(interactive=False),
            chat.examples: gr.Dataset(visible=False),
        }

    def _idle(self, history: History) -> Updates:
        chat = self.chat
        return {
            self.cancel_token: None,
            chat.send: gr.Button(visible=True),
            chat.stop: gr.Button(visible=False),
            chat.retry: gr.Button(interactive=bool(history)),
            chat.clear: gr.Button(interactive=bool(history)),
            chat.examples: gr.Dataset(visible=not history),
        }
