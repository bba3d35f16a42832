"""From a blocking iterator to an async one that a page can keep up with."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

UPDATE_SECONDS = 0.1
"""The least time between two updates of a page."""

STOP_GRACE_SECONDS = 1.0
"""How long a stopped iterator may take to say its last word; prefilling a long prompt takes longer
and can't be interrupted."""


class _Latest(Generic[T]):
    """The newest value of an iterator that runs in another thread; older ones are dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.changed = asyncio.Event()
        self.value: T | None = None
        self.done = False
        self.error: BaseException | None = None
        self._loop = loop

    def run(self, values: Callable[[], Iterator[T]]) -> None:
        try:
            for value in values():
                self.value = value
                self._notify()
        except BaseException as error:  # noqa: BLE001 - raised again where it can be shown
            self.error = error
        self.done = True
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the server has shut down; nobody is waiting
            self._loop.call_soon_threadsafe(self.changed.set)


async def newest(
    values: Callable[[], Iterator[T]], cancel: threading.Event
) -> AsyncGenerator[T, None]:
    """Run `values()` in a thread and yield its newest value, at most every UPDATE_SECONDS.

    The last value always comes, and so does the error that ended it. `cancel` is set when this
    ends for whatever reason, a closed tab included, so `values` must watch it. Once it is set
    from outside, this ends within STOP_GRACE_SECONDS.
    """
    latest: _Latest[T] = _Latest(asyncio.get_running_loop())
    threading.Thread(target=latest.run, args=(values,), name="saif-turn", daemon=True).start()
    shown: T | None = None
    try:
        while await _wait(latest.changed, cancel):
            latest.changed.clear()
            done = latest.done  # read before the value, or the last one could be missed
            if latest.value is not None and latest.value is not shown:
                shown = latest.value
                yield shown
            if done:
                break
            await asyncio.sleep(UPDATE_SECONDS)
        if latest.error is not None:
            raise latest.error
    finally:
        cancel.set()


async def _wait(changed: asyncio.Event, cancel: threading.Event) -> bool:
    """Whether something changed; False once the grace after `cancel` is over."""
    grace = STOP_GRACE_SECONDS
    while grace > 0:
        try:
            async with asyncio.timeout(UPDATE_SECONDS):
                await changed.wait()
        except TimeoutError:
            if cancel.is_set():
                grace -= UPDATE_SECONDS
        else:
            return True
    return False
