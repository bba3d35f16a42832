"""How many threads a decoding step runs on: all of them, or one where the others are held up."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable

_SLOW = 2.0  # times the best step of its shape
_RECENT = 4  # steps whose mean is compared with the best
_TRIAL = 8  # steps of a trial, half of them on each number of threads
_GAIN = 0.9  # of the time that a change must leave at most
_SHORTEST_WAIT, _LONGEST_WAIT = 1.0, 30.0  # seconds between two trials


class ThreadPolicy:
    """Chooses the number of threads of each step from how long earlier steps took.

    Threads wait for each other hundreds of times in a step. Where another process takes a core,
    each wait lasts until the scheduler gives it back, and several threads are slower than one.
    A *trial* alternates between all threads and one for a few steps of the same shape and keeps
    whichever took less time. There is one after the first steps, one when steps become much slower
    than the best of their shape, and one every now and then, so that a policy that has dropped to
    one thread recovers when the machine is idle again. Trials that change nothing become rarer.

    It decides about time only: a step's bits do not depend on the number of threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._all = 1  # threads that the caller allows
        self._start_again()

    def _start_again(self) -> None:
        self._single = False
        self._trial: dict[bool, list[float]] | None = None  # seconds; key: on one thread?
        self._shape: Hashable = None
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._best: dict[Hashable, float] = defaultdict(lambda: float("inf"))
        self._wait = _SHORTEST_WAIT
        self._last_trial = float("-inf")
        self._provoked = False  # the trial, by a need to change

    def choose(self, shape: Hashable, available: int) -> int:
        """Threads for the next step. shape: what decides how much work it is."""
        if available != self._all:
            self._all = available
            self._start_again()
        if shape != self._shape:
            self._shape = shape
            self._recent.clear()
            if self._trial is not None:
                self._trial = {False: [], True: []}
        if self._trial is None and self._is_trial_due():
            self._trial = {False: [], True: []}
        if self._trial is None:
            return 1 if self._single else self._all
        return 1 if len(self._trial[False]) > len(self._trial[True]) else self._all

    def record(self, threads: int, seconds: float) -> None:
        """The step that was chosen for last took this long on that many threads."""
        if self._all == 1:
            return
        self._best[self._shape] = min(self._best[self._shape], seconds)
        if self._trial is None:
            self._recent.append(seconds)
            return
        self._trial[threads == 1].append(seconds)
        if sum(map(len, self._trial.values())) == _TRIAL:
            self._conclude(sum(self._trial[True]) / sum(self._trial[False]))

    def _is_trial_due(self) -> bool:
        if self._all == 1 or len(self._recent) < _RECENT:
            return False
        slow = sum(self._recent) / _RECENT > _SLOW * self._best[self._shape]
        self._provoked = self._single or slow
        waited = self._clock() - self._last_trial
        return waited >= (self._wait if self._provoked else _LONGEST_WAIT)

    def _conclude(self, ratio: float) -> None:
        """ratio: seconds on one thread per second on all of them."""
        single = ratio * _GAIN <= 1 if self._single else ratio <= _GAIN
        in_vain = self._provoked and single == self._single
        self._wait = min(2 * self._wait, _LONGEST_WAIT) if in_vain else _SHORTEST_WAIT
        self._single, self._trial = single, None
        self._recent.clear()
        self._last_trial = self._clock()
