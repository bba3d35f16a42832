"""The server of a running study: its pages, and what holds for every reply and every request."""

import logging
import secrets
from collections.abc import Mapping
from functools import partial

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from saif.errors import InputError, SaifError, StudyError
from saif.study.design.study_file import MturkRecruitment, Study
from saif.study.server.context import ServerContext
from saif.study.server.participant import FOLDER, router
from saif.study.server.researcher import add_researcher
from saif.study.store.database import NotSavedError
from saif.study.store.store import DisconnectedError

MAX_BODY_BYTES = 64_000

_STATUS = {DisconnectedError: 401, NotSavedError: 503, InputError: 422, StudyError: 409}
"""503 is worth trying again; 401 means that another tab has taken over."""

_logger = logging.getLogger(__name__)


def build_app(
    context: ServerContext, *, secret: str | None = None, in_space: bool = False
) -> FastAPI:
    """The application. secret: opens the researcher's page, which is not there without one.
    in_space: a Hugging Face Space shows it in a frame of its own page."""
    app = FastAPI(openapi_url=None)  # and so no pages of documentation either
    study = context.store.study
    headers = _headers(study, in_space)
    app.state.context = context
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=FOLDER / "static"))

    @app.get("/")
    def front() -> RedirectResponse:
        return RedirectResponse(f"/study/{study.id}")

    @app.get("/alive", response_class=PlainTextResponse)
    def alive() -> str:
        return "alive"

    app.add_exception_handler(SaifError, _refusal)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, partial(_bug, headers))  # outside all that is added here
    if secret is not None:
        add_researcher(app, context, secret)
    app.add_middleware(_Limits, headers=headers)
    return app


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until interrupted. No access log: an address holds the id of whoever opened it."""
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def _headers(study: Study, in_space: bool) -> dict[str, str]:
    frames, forms = "https://huggingface.co" if in_space else "'none'", "'self'"
    if isinstance(study.recruitment, MturkRecruitment):
        frames = "https://*.mturk.com https://*.mturkcontent.com"
        forms = "'self' https://www.mturk.com https://workersandbox.mturk.com"
    return {
        "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        f"connect-src 'self'; img-src 'self' data:; form-action {forms}; base-uri 'none'; "
        f"frame-ancestors {frames}",
        "X-Content-Type-Options": "nosniff",
        # The address holds the recruitment id; no other site may learn it.
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }


class _Limits:
    """Puts headers on every reply, and refuses a body over MAX_BODY_BYTES, whatever it says of its
    own length. Not starlette's helper for this, which would hold on to a stream whose reader has
    gone."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        n = 0

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        async def counted() -> Message:
            nonlocal n
            message = await receive()
            n += len(message.get("body", b""))
            if n > MAX_BODY_BYTES:
                raise HTTPException(413, "That is too long to be sent.")
            return message

        await self._app(scope, counted, with_headers)


def _said(status: int, error: str, hint: str = "") -> JSONResponse:
    return JSONResponse({"error": error, "hint": hint}, status)


def _refusal(_request: Request, error: Exception) -> Response:
    """A refusal in words."""
    assert isinstance(error, SaifError)
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
    return _said(status, str(error), error.hint)


def _plain(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _said(error.status_code, f"{error.detail}")


def _malformed(_request: Request, _error: Exception) -> Response:
    return _said(422, "The page sent something that is not expected here.", "Please reload it.")


def _bug(headers: Mapping[str, str], request: Request, error: Exception) -> Response:
    """The path names no participant; the query, which may, is not logged."""
    reference = secrets.token_hex(4)
    _logger.error("Reference %s at %s", reference, request.url.path, exc_info=error)
    reply = _said(500, f"Something went wrong that should not have (reference {reference}).")
    reply.headers.update(headers)
    return reply
