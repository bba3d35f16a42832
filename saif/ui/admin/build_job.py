"""A preset in the making: a thread that works while nobody is answered, and its progress."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from saif.ui.errors import explain

if TYPE_CHECKING:
    from saif.progress import Part, ProgressListener

State = Literal["running", "done", "cancelled", "failed"]

_CANCEL_SECONDS = 0.05  # how long a wait goes on once cancelled


class BuildJob:
    """One preset being made.

    work: what has to be done of each part. unit_seconds: what one of each is expected to take,
    which weighs the parts against each other.
    """

    def __init__(
        self, title: str, work: "Mapping[Part, int]", unit_seconds: "Mapping[Part, float]"
    ) -> None:
        self.title = title
        self.state: State = "running"
        self.problem = ""
        self.cancel = threading.Event()
        self.paused = False
        self._work, self._unit_seconds = work, unit_seconds
        self._expected = sum(n * unit_seconds[part] for part, n in work.items())
        self._done: Counter[Part] = Counter()
        self._started = time.monotonic()
        self._seconds_paused = 0.0

    def run(
        self,
        make: "Callable[[ProgressListener, Callable[[], None]], None]",
        wait_until_idle: Callable[[float], bool],
    ) -> threading.Thread:
        """Work in a thread. `make` gets what hears of progress, and what has to be called before
        each pass of the model; both wait until nobody is answered, and raise once cancelled.

        wait_until_idle: see `LocalEngine.wait_until_idle`.
        """

        def before_pass() -> None:
            self._pause(wait_until_idle)

        def on_progress(part: "Part", n: int) -> None:
            self._done[part] += n
            before_pass()

        def work() -> None:
            try:
                make(on_progress, before_pass)
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
        capped = {part: min(n, self._work[part]) for part, n in self._done.items()}
        done = sum(n * self._unit_seconds[part] for part, n in capped.items())
        return done / self._expected if self._expected else 1.0

    @property
    def seconds_left(self) -> float:
        """As fast as it went so far; before there is something to go by, as expected."""
        share = self.share
        if share < 0.02:
            return self._expected
        worked = time.monotonic() - self._started - self._seconds_paused
        return worked / share * (1 - share)

    def _pause(self, wait_until_idle: Callable[[float], bool]) -> None:
        began = time.monotonic()
        while not (self.cancel.is_set() or wait_until_idle(0)):
            self.paused = True
            wait_until_idle(_CANCEL_SECONDS)
        if self.paused:
            self._seconds_paused += time.monotonic() - began
            self.paused = False
        if self.cancel.is_set():
            raise _CancelledError


class _CancelledError(Exception):
    pass
