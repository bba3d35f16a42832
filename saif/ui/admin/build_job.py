"""A preset in the making: a thread that works between replies, and how far it is."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from saif.ui.errors import explain

if TYPE_CHECKING:
    from saif.progress import Part, ProgressListener
    from saif.runtime.language_model import LanguageModel

State = Literal["running", "done", "cancelled", "failed"]

_POLL_SECONDS = 0.05
_PASSES = ("start", "advance", "residuals", "log_probabilities")


class BuildJob:
    """One preset being made.

    work: what has to be done of each part. pace: seconds that one of each is expected to take,
    which weighs the parts against each other.
    """

    def __init__(
        self,
        name: str,
        title: str,
        work: "Mapping[Part, int]",
        pace: "Mapping[Part, float]",
        *,
        busy: Callable[[], bool],
    ) -> None:
        self.name, self.title = name, title
        self.state: State = "running"
        self.problem = ""
        self.cancel = threading.Event()
        self.paused = False
        self._work, self._pace = work, pace
        self._busy = busy
        self._done: Counter[Part] = Counter()
        self._started = time.monotonic()
        self._seconds_paused = 0.0

    def run(
        self, make: "Callable[[ProgressListener, Callable[[], None]], None]"
    ) -> threading.Thread:
        """Work in a thread. `make` gets what hears of progress, and what has to be called before
        each pass of the model."""

        def work() -> None:
            try:
                make(self._heard, self._give_way)
            except _CancelledError:
                self.state = "cancelled"
            except Exception as error:  # noqa: BLE001 - told to whoever looks at the page
                self.problem = explain(error)
                self.state = "failed"
            else:
                self.state = "done"

        thread = threading.Thread(target=work, name="saif-making", daemon=True)
        thread.start()
        return thread

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def share(self) -> float:
        """How much of the expected time's worth is done, 0 to 1."""
        whole = sum(n * self._pace[part] for part, n in self._work.items())
        done = sum(min(n, self._work[part]) * self._pace[part] for part, n in self._done.items())
        return done / whole if whole else 1.0

    @property
    def seconds_left(self) -> float:
        """As fast as it went so far; before there is something to go by, as expected."""
        expected = sum(n * self._pace[part] for part, n in self._work.items())
        share = self.share
        if share < 0.02:
            return expected
        worked = time.monotonic() - self._started - self._seconds_paused
        return worked / share * (1 - share)

    def _heard(self, part: "Part", n: int) -> None:
        self._done[part] += n
        self._give_way()

    def _give_way(self) -> None:
        """Wait while someone's reply is being made. Raises what ends the work once cancelled."""
        began = time.monotonic()
        while self._busy() and not self.cancel.wait(_POLL_SECONDS):
            self.paused = True
        if self.paused:
            self._seconds_paused += time.monotonic() - began
            self.paused = False
        if self.cancel.is_set():
            raise _CancelledError


class _CancelledError(Exception):
    pass


def giving_way(model: "LanguageModel", before_each_pass: Callable[[], None]) -> "LanguageModel":
    """The same model for someone who works on it in the background."""
    return cast("LanguageModel", _GivingWay(model, before_each_pass))


class _GivingWay:
    def __init__(self, model: "LanguageModel", before_each_pass: Callable[[], None]) -> None:
        self._model = model
        self._before_each_pass = before_each_pass

    def remember(self, *_: Any) -> None:
        """What is read in the background is no conversation, and would push those out."""

    def __getattr__(self, name: str) -> Any:
        if name in _PASSES:
            self._before_each_pass()
        return getattr(self._model, name)
