"""What the owner's controls do: load another model, tell what a preset costs, build it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from saif.core.types import Thoroughness
from saif.runtime.catalog import known
from saif.runtime.load import QuantizeOrAuto
from saif.ui.admin.panel import AdminPanel
from saif.ui.admin.service import ModelAdmin
from saif.ui.chat_handlers import ChatHandlers, Updates
from saif.ui.choices import preset_choices
from saif.ui.describe import cost_line, model_line, problems_line, progress_line, said
from saif.ui.errors import as_page_error, explain
from saif.ui.status import WATCH_SECONDS, current_status
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
    admin: ModelAdmin
    controls: AdminPanel
    chat: ChatHandlers
    steering: SteeringHandlers

    # Another model

    def model_info(self, name: str | None) -> str:
        """What is known of a model before it is loaded; asks no network."""
        from saif.runtime.load import local_source

        entry = known((name or "").strip())
        return model_line(entry, _WHERE[local_source(entry.id)] if entry else "")

    async def change_model(
        self, name: str | None, quantize: QuantizeOrAuto
    ) -> AsyncGenerator[Updates, None]:
        """Load another model; the conversation was this one's and ends with it."""
        chat, load = self.chat.chat, self.controls.load
        services = self.admin.services
        changing = asyncio.ensure_future(
            asyncio.to_thread(self.admin.change_model, name or "", quantize)
        )
        while not changing.done():
            yield {
                chat.status: current_status(services),
                load: gr.Button("Loading…", interactive=False),
            }
            await asyncio.sleep(WATCH_SECONDS)
        after = {
            chat.status: current_status(services),
            load: gr.Button("Load this model", interactive=True),
        }
        error = changing.exception()
        if error is not None:
            problem = as_page_error(error)
            yield {**after, chat.notice: problems_line([problem.message])}
            raise problem from error
        yield {**self.chat.empty_page(), **after}

    # A preset that the model lacks

    def buildable(self) -> Updates:
        """The instructions that the current model has no preset for."""
        panel = self.controls
        instructions = self._instructions()
        some = bool(instructions.choices)
        return {
            panel.instruction: instructions,
            panel.start: gr.Button(interactive=some),
            panel.cost: "" if some else said("This model has every preset there is."),
            panel.build_fold: gr.Accordion(open=True) if self._no_presets else gr.Accordion(),
        }

    def _instructions(self) -> gr.Dropdown:
        choices = [(item.title, item.id) for item in self.admin.buildable()]
        return gr.Dropdown(choices, value=choices[0][1] if choices else None)

    @property
    def _no_presets(self) -> bool:
        return not self.admin.services.cards()[0]

    async def cost(self, name: str | None, effort: Thoroughness) -> AsyncGenerator[Any, None]:
        """What the chosen preset would take, once that has been measured."""
        # The page may not know yet what can be chosen.
        name = name or next((item.id for item in self.admin.buildable()), None)
        if name is None or self.admin.building:
            yield ""
            return
        engine = self.admin.services.current.engine
        while not engine.done():
            yield said("The model is still loading…")
            await asyncio.sleep(WATCH_SECONDS)
        yield said("Measuring how fast the model is here…")
        try:
            work, seconds = await asyncio.to_thread(self.admin.cost, name, effort)
        except Exception as error:  # noqa: BLE001 - shown where the cost would be
            yield said(explain(error))
        else:
            yield cost_line(work["prompts"], work["replies"], seconds)

    async def cost_if_none(
        self, name: str | None, effort: Thoroughness
    ) -> AsyncGenerator[Any, None]:
        """The cost at once, where the first thing to do is to build a preset."""
        if not self._no_presets:
            yield gr.skip()
            return
        async for line in self.cost(name, effort):
            yield line

    @property
    def build_outputs(self) -> list[Any]:
        panel = self.controls
        made = [self.steering.panel.preset, self.chat.chat.notice]
        return [panel.progress, panel.cost, panel.start, panel.cancel, panel.instruction, *made]

    async def build(self, name: str | None, effort: Thoroughness) -> AsyncGenerator[Updates, None]:
        """Build a preset, tell how far it is, and choose it when it is there."""
        panel = self.controls
        if name is None:
            yield {panel.progress: gr.skip()}
            return
        yield {
            panel.progress: said("Beginning…"),
            panel.cost: "",
            panel.start: gr.Button(interactive=False),
        }
        try:
            job = await asyncio.to_thread(self.admin.build, name, effort)
        except Exception as error:
            problem = as_page_error(error)
            yield {
                panel.progress: problems_line([problem.message]),
                panel.start: gr.Button(interactive=True),
            }
            raise problem from error
        async for update in self._follow(job):
            yield update
        if job.state == "done":
            chosen = gr.Dropdown(self._presets(), value=name)
            yield {self.steering.panel.preset: chosen, self.chat.chat.notice: ""}

    async def watch_build(self) -> AsyncGenerator[Updates, None]:
        """For a page that is opened while a preset is being built."""
        job = self.admin.job
        if job is None or not job.running:
            yield {self.controls.progress: gr.skip()}  # else gradio would empty the rest
            return
        async for update in self._follow(job):
            yield update
        if job.state == "done":  # what is chosen stays
            yield {self.steering.panel.preset: gr.Dropdown(self._presets())}

    async def _follow(self, job: "BuildJob") -> AsyncGenerator[Updates, None]:
        panel = self.controls
        while job.running:
            cancelling = job.cancel.is_set()
            yield {
                panel.progress: progress_line(
                    job.title, job.share, job.seconds_left, paused=job.paused
                ),
                panel.start: gr.Button(visible=False),
                panel.cancel: gr.Button(
                    "Cancelling…" if cancelling else "Cancel",
                    visible=True,
                    interactive=not cancelling,
                ),
            }
            await asyncio.sleep(2 * WATCH_SECONDS)
        kept = "Cancelled. What was found is kept: building it again goes on there."
        ended = {
            "done": said(f"{job.title} is ready and chosen above."),
            "cancelled": said(kept),
            "failed": problems_line([job.problem]),
        }
        yield {
            panel.progress: ended[job.state],
            panel.start: gr.Button(visible=True, interactive=True),
            panel.cancel: gr.Button(visible=False),
            panel.instruction: self._instructions() if job.state == "done" else gr.skip(),
        }

    def _presets(self) -> list[tuple[str, str]]:
        return preset_choices(self.admin.services.cards()[0])

    def cancel(self) -> None:
        if self.admin.job is not None:
            self.admin.job.cancel.set()
