"""What the owner's controls do: load another model, tell what a preset costs, make it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from saif.core.types import Thoroughness
from saif.presets.instructions import Instruction
from saif.runtime.catalog import known
from saif.runtime.load import QuantizeOrAuto
from saif.ui.admin.panel import AdminPanel
from saif.ui.admin.service import Admin
from saif.ui.chat_handlers import ChatHandlers, Updates
from saif.ui.choices import preset_choices
from saif.ui.describe import cost_line, model_line, problems_line, progress_line, said
from saif.ui.errors import as_page_error, explain
from saif.ui.status import WATCH_SECONDS, head
from saif.ui.steering_handlers import SteeringHandlers

if TYPE_CHECKING:
    from saif.ui.admin.build_job import BuildJob

_WHERE = {
    "converted": "Ready on this machine.",
    "package": "Installed on this machine.",
    "hub cache": "On this machine.",
    None: "Has to be downloaded.",
}


@dataclass(frozen=True)
class AdminHandlers:
    admin: Admin
    tools: AdminPanel
    turns: ChatHandlers
    panel: SteeringHandlers

    # Another model

    @property
    def change_outputs(self) -> list[Any]:
        return [*self.turns.outputs, self.turns.chat.status, self.tools.model.load]

    def about(self, name: str | None) -> str:
        """What is known of a model before it is loaded; asks no network."""
        from saif.runtime.load import local_source

        entry = known((name or "").strip())
        return model_line(entry, _WHERE[local_source(entry.id)] if entry else "")

    async def change(
        self, name: str | None, quantize: QuantizeOrAuto
    ) -> AsyncGenerator[Updates, None]:
        """Load another model; the conversation was this one's and ends with it."""
        chat, load = self.turns.chat, self.tools.model.load
        services = self.admin.services
        changing = asyncio.ensure_future(
            asyncio.to_thread(self.admin.change_model, name or "", quantize)
        )
        while not changing.done():
            yield {chat.status: head(services), load: gr.Button("Loading…", interactive=False)}
            await asyncio.sleep(WATCH_SECONDS)
        after = {chat.status: head(services), load: gr.Button("Load this model", interactive=True)}
        error = changing.exception()
        if error is not None:
            problem = as_page_error(error)
            yield {**after, chat.notice: problems_line([problem.message])}
            raise problem from error
        yield {**self.turns.cleared(), **after}

    # A preset that the model lacks

    @property
    def offer_outputs(self) -> list[Any]:
        making = self.tools.making
        return [making.instruction, making.make, making.cost, making.fold]

    def offer(self) -> Updates:
        """The instructions that the current model has no preset for."""
        making = self.tools.making
        choices = _choices(self.admin.makeable())
        cards, _ = self.admin.services.cards()
        return {
            making.instruction: gr.Dropdown(choices, value=_first(choices)),
            making.make: gr.Button(interactive=bool(choices)),
            making.cost: "" if choices else said("This model has every preset there is."),
            making.fold: gr.Accordion() if cards else gr.Accordion(open=True),
        }

    async def cost(self, name: str | None, effort: Thoroughness) -> AsyncGenerator[Any, None]:
        """What the chosen preset would take, once that has been measured."""
        name = name or _first(_choices(self.admin.makeable()))  # the page may not know it yet
        making = self.admin.making
        if name is None or (making is not None and making.running):
            yield ""
            return
        engine = self.admin.services.current.engine
        while not engine.done():
            yield said("The model is still loading…")
            await asyncio.sleep(WATCH_SECONDS)
        yield said("Measuring how fast the model is here…")
        try:
            cost = await asyncio.to_thread(self.admin.cost, name, effort)
        except Exception as error:  # noqa: BLE001 - shown where the cost would be
            yield said(explain(error))
        else:
            yield cost_line(cost.prompts, cost.replies, cost.seconds)

    async def cost_if_without(
        self, name: str | None, effort: Thoroughness
    ) -> AsyncGenerator[Any, None]:
        """The cost without being asked, where the first thing to do is to make a preset."""
        if self.admin.services.cards()[0]:
            yield gr.skip()
            return
        async for line in self.cost(name, effort):
            yield line

    @property
    def making_outputs(self) -> list[Any]:
        making = self.tools.making
        preset = self.panel.panel.main.preset
        return [
            making.progress,
            making.cost,
            making.make,
            making.cancel,
            making.instruction,
            preset,
            self.turns.chat.notice,
        ]

    async def make(self, name: str | None, effort: Thoroughness) -> AsyncGenerator[Updates, None]:
        """Make a preset, tell how far it is, and choose it when it is there."""
        controls = self.tools.making
        if name is None:
            yield {controls.progress: gr.skip()}
            return
        yield {
            controls.progress: said("Beginning…"),
            controls.cost: "",
            controls.make: gr.Button(interactive=False),
        }
        try:
            making = await asyncio.to_thread(self.admin.make, name, effort)
        except Exception as error:
            problem = as_page_error(error)
            yield {
                controls.progress: problems_line([problem.message]),
                controls.make: gr.Button(interactive=True),
            }
            raise problem from error
        async for update in self._follow(making):
            yield update
        if making.state == "done":
            yield {**self._presets(name), self.turns.chat.notice: ""}

    async def follow(self) -> AsyncGenerator[Updates, None]:
        """For a page that is opened while a preset is being made."""
        making = self.admin.making
        if making is None or not making.running:
            yield {self.tools.making.progress: gr.skip()}  # else gradio would empty the rest
            return
        async for update in self._follow(making):
            yield update
        if making.state == "done":
            yield self._presets()

    async def _follow(self, making: "BuildJob") -> AsyncGenerator[Updates, None]:
        controls = self.tools.making
        while making.running:
            cancelling = making.cancel.is_set()
            yield {
                controls.progress: progress_line(
                    making.title, making.share, making.seconds_left, paused=making.paused
                ),
                controls.make: gr.Button(visible=False),
                controls.cancel: gr.Button(
                    "Cancelling…" if cancelling else "Cancel",
                    visible=True,
                    interactive=not cancelling,
                ),
            }
            await asyncio.sleep(2 * WATCH_SECONDS)
        ended = {
            "done": said(f"{making.title} is ready and chosen above."),
            "cancelled": said("Cancelled. What was found is kept: making it again goes on there."),
            "failed": problems_line([making.problem]),
        }
        yield {
            controls.progress: ended[making.state],
            controls.make: gr.Button(visible=True, interactive=True),
            controls.cancel: gr.Button(visible=False),
        }

    def _presets(self, chosen: str | None = None) -> Updates:
        """The choices once there is one preset more; what is chosen stays unless told."""
        cards, _ = self.admin.services.cards()
        choices = preset_choices(cards)
        makeable = _choices(self.admin.makeable())
        return {
            self.panel.panel.main.preset: (
                gr.Dropdown(choices, value=chosen) if chosen else gr.Dropdown(choices)
            ),
            self.tools.making.instruction: gr.Dropdown(makeable, value=_first(makeable)),
        }

    def cancel(self) -> None:
        if self.admin.making is not None:
            self.admin.making.cancel.set()


def _choices(instructions: Sequence[Instruction]) -> list[tuple[str, str]]:
    return [(item.title, item.id) for item in instructions]


def _first(choices: Sequence[tuple[str, str]]) -> str | None:
    return choices[0][1] if choices else None
