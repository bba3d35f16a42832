"""Work that nobody waits for, done one piece after the other."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable


class BackgroundQueue:
    """Done in a thread that ends with them. One that stayed would keep its share of PyTorch's
    threads, and with more of those than cores every prompt takes twice as long to read."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: deque[Callable[[], None]] = deque()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, errand: Callable[[], None]) -> None:
        """Have it done some time. What it raises is lost."""
        with self._guard:
            self._waiting.append(errand)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name)
                self._thread.start()

    def wait(self) -> None:
        """Until all that was added is done."""
        while (thread := self._thread) is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._guard:
                # A program that ends waits for the errand under way, not for all of them.
                if not self._waiting or not threading.main_thread().is_alive():
                    self._thread = None
                    return
                errand = self._waiting.popleft()
            with contextlib.suppress(Exception):
                errand()
