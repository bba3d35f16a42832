"""A queue of background tasks."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable


class BackgroundQueue:
    """Runs tasks in order, in a thread that ends with them. One that stayed would keep its share
    of PyTorch's threads, and with more of those than cores every prompt takes twice as long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, task: Callable[[], None]) -> None:
        """Have it run some time. What it raises is lost."""
        with self._lock:
            self._waiting.append(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name)
                self._thread.start()

    def wait(self) -> None:
        """Until all that was added is done."""
        while (thread := self._thread) is not None:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                # A program that ends waits for the task under way, not for all of them.
                if not self._waiting or not threading.main_thread().is_alive():
                    self._thread = None
                    return
                task = self._waiting.popleft()
            with contextlib.suppress(Exception):
                task()
