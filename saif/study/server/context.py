"""The context that the routes of one running study share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from saif.errors import StudyError
from saif.study.server.streaming import Streams
from saif.study.store.store import Store


@dataclass(frozen=True)
class ServerContext:
    """What a study's routes need: its store, its answers, and when a code may be given."""

    store: Store
    streams: Streams
    is_safe: Callable[[str], bool] = field(default=lambda _participant: True)
    """Whether all that a participant gave is where it is to be kept."""
    finished: Callable[[], None] = field(default=lambda: None)
    """Called after each participant who completes."""


def _context_of(request: Request, study_id: str) -> ServerContext:
    context: ServerContext = request.app.state.context
    if study_id != context.store.study.id:
        raise StudyError("There is no such study here.", hint="Please check the link.")
    return context


Context = Annotated[ServerContext, Depends(_context_of)]
"""The context of a route whose path names the study as `study_id`."""
