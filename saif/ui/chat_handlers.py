"""One visitor's turns: what Send, Retry, Stop and Clear do.

A turn runs in a thread of its own; the handler only passes on where it stands. Nothing here
holds the model, so ending a handler anywhere is safe.
"""

import contextlib
import threading
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import gradio as gr

from saif.ui.chat_panel import ChatPanel
from saif.ui.chat_view import Exchange, Run, Talk, column_view, retried, settled
from saif.ui.describe import problems_line
from saif.ui.errors import as_page_error
from saif.ui.services import Services, no_preset
from saif.ui.steering_panel import PanelValues, SteeringPanel
from saif.ui.streaming import newest

if TYPE_CHECKING:
    from saif.chat import ColumnName

Updates = dict[Any, Any]
"""Component -> its update; what isn't named stays as it is."""


@dataclass(frozen=True)
class ChatHandlers:
    """The handlers and the components they write.

    talk, run, shown: gr.State of Talk, Run | None and the id of the model that the page shows.
    """

    services: Services
    chat: ChatPanel
    panel: SteeringPanel
    talk: gr.State
    run: gr.State
    shown: gr.State
    makeable: bool

    @property
    def outputs(self) -> list[Any]:
        chat = self.chat
        return [
            self.talk,
            self.run,
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
        self, request: gr.Request, text: str, talk: Talk, shown: str | None, *values: Any
    ) -> AsyncGenerator[Updates, None]:
        """Answer a message; it goes back into the box if nothing comes of it."""
        answer = self._answer(request, text or "", talk, shown, PanelValues(*values))
        box: Updates = {self.chat.message: ""}  # once: the next message may be typed meanwhile
        async with contextlib.aclosing(answer) as updates:
            async for update in updates:
                yield box | update
                box = {}

    async def again(
        self, request: gr.Request, talk: Talk, shown: str | None, *values: Any
    ) -> AsyncGenerator[Updates, None]:
        """Answer the last message once more; the old answer stays if nothing comes of it."""
        base, text = retried(talk)
        answer = self._answer(request, text, base, shown, PanelValues(*values), instead_of=talk)
        async with contextlib.aclosing(answer) as updates:
            async for update in updates:
                update.pop(self.chat.message, None)
                yield update

    def stop(self, run: Run | None) -> None:
        if run is not None:
            run.cancel.set()

    def clear(self, request: gr.Request) -> Updates:
        self.services.visits.forget(request.session_hash)
        return self.cleared()

    def cleared(self) -> Updates:
        """The page without a conversation."""
        return {**self._views(()), **self._idle(()), self.chat.notice: ""}

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.services.visits.forget(request.session_hash)

    async def _answer(
        self,
        request: gr.Request,
        text: str,
        talk: Talk,
        shown: str | None,
        values: PanelValues,
        *,
        instead_of: Talk | None = None,
    ) -> AsyncGenerator[Updates, None]:
        run = Run()
        fallback = talk if instead_of is None else instead_of
        after = fallback
        yield {**self._busy(run), **self._views(talk, waiting=text)}
        cache_key = self.services.visits.cache_key(request.session_hash)
        steps = partial(self._steps, cache_key, text, talk, shown, values, run.cancel)
        try:
            async with contextlib.aclosing(newest(steps, run.cancel)) as exchanges:
                async for exchange in exchanges:
                    after = (*talk, exchange)
                    yield self._views(after, running=True)
        except Exception as error:
            problem = as_page_error(error)
            yield {
                **self._views(fallback),
                **self._idle(fallback),
                self.chat.notice: problems_line([problem.message]),
                self.chat.message: text,
            }
            raise problem from error
        finally:
            run.cancel.set()
        kept = settled(after)
        nothing_came = len(kept) <= len(talk)
        after = fallback if nothing_came else kept
        yield {
            **self._views(after),
            **self._idle(after),
            **({self.chat.message: text} if nothing_came else {}),
        }

    def _steps(
        self,
        cache_key: str,
        text: str,
        talk: Talk,
        shown: str | None,
        values: PanelValues,
        cancel: threading.Event,
    ) -> Iterator[Exchange]:
        """The turn, step by step; runs in its own thread. Refuses before it waits."""
        from saif.chat import Comparison, Turn, check_message, take_turn

        check_message(text)
        services = self.services
        current = services.model_shown(shown)
        if values.preset is None:
            raise no_preset(current.model_id, makeable=self.makeable)
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
        before = talk[-1].state.comparison if talk else Comparison()
        with services.replying():
            for state in take_turn(engine, before, turn, cancelled=cancel.is_set):
                yield Exchange(text, loaded.preset.title, values.placement, before, state)

    def _views(self, talk: Talk, *, running: bool = False, waiting: str = "") -> Updates:
        note = "" if self.services.current.engine.done() else "The model is still loading…"
        columns = {
            "unsteered": self.chat.unsteered,
            "steered": self.chat.steered,
            "prompted": self.chat.prompted,
        }
        return {self.talk: talk} | {
            component: column_view(
                talk, cast("ColumnName", name), running=running, waiting=waiting, note=note
            )
            for name, component in columns.items()
        }

    def _busy(self, run: Run) -> Updates:
        chat = self.chat
        return {
            self.run: run,
            chat.notice: "",
            chat.send: gr.Button(visible=False),
            chat.stop: gr.Button(visible=True),
            chat.retry: gr.Button(interactive=False),
            chat.clear: gr.Button(interactive=False),
            chat.examples: gr.Dataset(visible=False),
        }

    def _idle(self, talk: Talk) -> Updates:
        chat = self.chat
        return {
            self.run: None,
            chat.send: gr.Button(visible=True),
            chat.stop: gr.Button(visible=False),
            chat.retry: gr.Button(interactive=bool(talk)),
            chat.clear: gr.Button(interactive=bool(talk)),
            chat.examples: gr.Dataset(visible=not talk),
        }
