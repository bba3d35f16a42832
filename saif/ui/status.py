"""The page's head: which model answers, and whether it can yet."""

import asyncio
from collections.abc import AsyncIterator, Callable

from saif.ui.describe import status_line
from saif.ui.errors import explain
from saif.ui.services import Services

WATCH_SECONDS = 0.25


def current_status(services: Services) -> str:
    current = services.current
    if not current.engine.done():
        return status_line(current.model_id, "loading")
    error = current.engine.exception()
    if error is not None:
        return status_line(current.model_id, "failed", explain(error))
    return status_line(current.model_id, "ready", current.engine.result().about)


def watch_status(services: Services) -> Callable[[], AsyncIterator[str]]:
    """A handler that tells each visitor when the model is ready, or why it never will be."""

    async def tell() -> AsyncIterator[str]:
        yield current_status(services)
        while not services.current.engine.done():
            await asyncio.sleep(WATCH_SECONDS)
        yield current_status(services)

    return tell
