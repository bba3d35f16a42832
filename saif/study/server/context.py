"""What the pages of one running study work with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from saif.errors import StudyError
from saif.study.server.streaming import Streams
from saif.study.store.store import Store


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class ServerContext:
    """is_safe: whether all that is known of a participant is where it will be kept, so that they
    may have their code. finished: told of each participant who completes."""

    store: Store
    streams: Streams
    is_safe: Callable[[str], bool] = field(default=lambda _participant: True)
    finished: Callable[[], None] = _nothing


def _context_of(request: Request, study_id: str) -> ServerContext:
    context: ServerContext = request.app.state.context
    if study_id != context.store.study.id:
        raise StudyError("There is no such study here.", hint="Please check the link.")
    return context


Context = Annotated[ServerContext, Depends(_context_of)]
"""The context of a route whose path names the study as `study_id`."""
