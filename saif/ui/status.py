"""The page's head: which model answers, and whether it can yet."""

import asyncio
from collections.abc import AsyncIterator

from saif.ui.describe import status_line
from saif.ui.errors import explain
from saif.ui.services import Services

WATCH_SECONDS = 0.25


def current_status(services: Services) -> str:
    current = services.current
    if not current.engine.done():
        waiting = "Loading the model; a message sent now is answered as soon as it is there."
        return status_line(current.model_id, "loading", waiting)
    error = current.engine.exception()
    if error is not None:
        why = f"The model is not available. {explain(error)}"
        return status_line(current.model_id, "failed", why)
    return status_line(current.model_id, "ready", f"Ready: {current.engine.result().about}")


async def watch_status(services: Services) -> AsyncIterator[str]:
    """Tell a visitor when the model is ready, or why it never will be."""
    yield current_status(services)
    while not services.current.engine.done():
        await asyncio.sleep(WATCH_SECONDS)
    yield current_status(services)
