"""What the page may use: presets on disk, and an engine that may still be loading."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.errors import PresetError, SaifError
from saif.presets.library import Library
from saif.presets.preset import Preset

if TYPE_CHECKING:  # torch loads with the model, after the page is up
    from saif.engine import Engine

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Services:
    """Built once by `app.py`, and by tests around a tiny model.

    model_id: whose presets are listed; known before the model is there. engine: done when the
    model has loaded, failed when it could not be.
    """

    library: Library
    model_id: str
    engine: "Future[Engine]"

    def cards(self) -> tuple[dict[str, Preset], list[str]]:
        """The presets that can be offered, by id, and a sentence for each that can't be read."""
        cards: dict[str, Preset] = {}
        problems: list[str] = []
        try:
            names = self.library.preset_ids(self.model_id)
        except SaifError as error:  # a model whose name can't be a folder's
            return {}, [error.sentence]
        for name in names:
            try:
                card = self.library.card(self.model_id, name)
                self.library.instruction(card.instruction)
            except SaifError as error:
                problems.append(error.sentence)
            else:
                cards[name] = card
        return cards, problems

    def wait_for_engine(self, cancelled: Callable[[], bool]) -> "Engine | None":
        """The engine once it has loaded; None if the wait was cancelled. Raises what loading it
        raised."""
        while not self.engine.done():
            if cancelled():
                return None
            wait([self.engine], timeout=_POLL_SECONDS)
        return self.engine.result()


def no_preset(model_id: str) -> PresetError:
    """What to say where nothing can be chosen."""
    return PresetError(
        f"There is no preset for {model_id} yet.",
        hint="Make some with `python -m saif presets build`, or start with another --model.",
    )


def load_in_background(load: "Callable[[], Engine]", engine: "Future[Engine]") -> None:
    """Run `load` in a thread of its own and settle `engine` with what becomes of it."""

    def work() -> None:
        try:
            engine.set_result(load())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the engine
            engine.set_exception(error)

    threading.Thread(target=work, name="saif-load", daemon=True).start()
