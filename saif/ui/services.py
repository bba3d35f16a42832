"""What the page may use: presets on disk, and an engine that may still be loading."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saif.errors import InputError, PresetError, SaifError
from saif.presets.library import Library
from saif.presets.preset import Preset

if TYPE_CHECKING:  # torch loads with the model, after the page is up
    from saif.engine.protocol import Engine

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Current:
    """The model that answers now. engine: done when it has loaded, failed when it could not be."""

    model_id: str
    engine: "Future[Engine]"

    def wait_for_engine(self, cancelled: Callable[[], bool]) -> "Engine | None":
        """The engine once it has loaded; None if the wait was cancelled. Raises what loading it
        raised."""
        while not self.engine.done():
            if cancelled():
                return None
            wait([self.engine], timeout=_POLL_SECONDS)
        return self.engine.result()


class Services:
    """Built once by `app.py`, and by tests around a tiny model.

    One model answers all visitors. Which one may change, so whoever needs it for more than one
    question asks for `current` once. can_build: whether a visitor can build presets.
    """

    def __init__(
        self, library: Library, model_id: str, engine: "Future[Engine]", *, can_build: bool = False
    ) -> None:
        self.library = library
        self.current = Current(model_id, engine)
        self.can_build = can_build
        self._cache_keys: dict[str, str] = {}
        self._visits = itertools.count(1)
        self._turns_under_way = 0
        self._counting = threading.Lock()

    def cards(self) -> tuple[dict[str, Preset], list[str]]:
        """The current model's presets that can be offered, by id, and a sentence for each that
        can't be read."""
        model_id = self.current.model_id
        cards: dict[str, Preset] = {}
        problems: list[str] = []
        try:
            names = self.library.preset_ids(model_id)
        except SaifError as error:  # a model whose name can't be a folder's
            return {}, [error.sentence]
        for name in names:
            try:
                card = self.library.card(model_id, name)
                self.library.instruction(card.instruction)
            except SaifError as error:
                problems.append(error.sentence)
            else:
                cards[name] = card
        return cards, problems

    def offer(self) -> tuple[dict[str, Preset], list[str]]:
        """As `cards`, with a sentence where there is nothing to choose from."""
        cards, problems = self.cards()
        if not cards and not problems:
            problems = [self.no_preset(self.current.model_id).sentence]
        return cards, problems

    def no_preset(self, model_id: str) -> PresetError:
        """What to say where nothing can be chosen."""
        way_out = (
            "Make one under “Make a preset” in the panel."
            if self.can_build
            else "Make some with `python -m saif presets build`, or start with another --model."
        )
        return PresetError(f"There is no preset for {model_id} yet.", hint=way_out)

    def card(self, name: str) -> Preset:
        """A preset of the current model. Raises PresetError."""
        return self.library.card(self.current.model_id, name)

    def model_shown(self, model_id: str | None) -> Current:
        """The current model, if it is still the one that a page shows. Raises InputError if
        another window has changed it; None is a caller who has no page."""
        current = self.current
        if model_id not in (None, current.model_id):
            raise InputError(
                f"The model was changed to {current.model_id} in another window.",
                hint="Reload the page to chat with that one.",
            )
        return current

    def cache_key(self, session: str | None) -> str:
        """The prefix-cache key of what an open page's visitor says until it is forgotten."""
        # Never the same again: what is still on its way when it is forgotten stays forgotten.
        return self._cache_keys.setdefault(session or "", f"{session}/{next(self._visits)}")

    def forget(self, session: str | None) -> None:
        """A page's conversation has ended."""
        cache_key, engine = self._cache_keys.pop(session or "", None), self.current.engine
        if cache_key and engine.done() and engine.exception() is None:
            engine.result().forget(cache_key)

    @contextmanager
    def replying(self) -> Iterator[None]:
        """While a turn is being answered: the model can't be changed."""
        with self._counting:
            self._turns_under_way += 1
        try:
            yield
        finally:
            with self._counting:
                self._turns_under_way -= 1

    @property
    def busy(self) -> bool:
        return self._turns_under_way > 0


def load_in_background(load: "Callable[[], Engine]", engine: "Future[Engine]") -> None:
    """Run `load` in a thread of its own and resolve `engine` with what comes of it."""

    def work() -> None:
        try:
            engine.set_result(load())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the engine
            engine.set_exception(error)

    threading.Thread(target=work, name="saif-load", daemon=True).start()
