"""From a blocking iterator to an async one that a page can keep up with."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

UPDATE_SECONDS = 0.1
"""The least time between two updates of a page."""

STOP_GRACE_SECONDS = 1.0
"""How long a stopped iterator may take to say its last word; prefilling a long prompt takes longer
and can't be interrupted."""

_POLL_SECONDS = 0.03


async def newest(
    values: Callable[[], Iterator[T]], cancel: threading.Event
) -> AsyncGenerator[T, None]:
    """Run `values()` in a thread and yield its newest value, at most every UPDATE_SECONDS.

    The last value always comes, and so does the error that ended it. `cancel` is set when this
    ends for whatever reason, a closed tab included, so `values` must watch it. Once it is set
    from outside, this ends within STOP_GRACE_SECONDS.
    """
    latest: deque[T] = deque(maxlen=1)
    ended: Future[None] = Future()

    def run() -> None:
        try:
            for value in values():
                latest.append(value)
            ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised again where it can be shown
            ended.set_exception(error)

    threading.Thread(target=run, name="saif-turn", daemon=True).start()
    grace = STOP_GRACE_SECONDS
    try:
        while grace > 0:
            over = ended.done()  # read before the value, or the last one could be missed
            pause = UPDATE_SECONDS if latest else _POLL_SECONDS
            if latest:
                yield latest.pop()
            elif over:
                ended.result()  # raises what ended it
                return
            grace -= pause if cancel.is_set() else 0
            await asyncio.sleep(pause)
    finally:
        cancel.set()
