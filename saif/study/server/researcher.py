"""The researcher's page: how the study is going, its stop, erasures and exports.

It is off without a secret, and nothing on it works without logging in. It tells counts and quality;
the outcome stays hidden until the study has all its participants.
"""

import hashlib
import hmac
import io
import secrets
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader
from starlette.concurrency import run_in_threadpool
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from saif.errors import InputError, SaifError
from saif.study.data.export import export
from saif.study.data.monitoring import HURRIED_MS, quality, status
from saif.study.data.tables import Profile
from saif.study.data.unblinding import MAX_REASON, early_looks, look
from saif.study.durability.erasure import Scope, withdraw
from saif.study.server.context import ServerContext
from saif.study.store.store import Store

PREFIX = "/researcher"
ACTOR = "researcher"

FOLDER = Path(__file__).parent / "researcher"

COOKIE = "researcher"
LASTS_SECONDS = 8 * 3600
TRIES_A_MINUTE = 5
MAX_NOTICE = 500
"""Characters: a browser drops a cookie of more than 4096 bytes."""

Form = dict[str, str]
SessionData = dict[str, Any]


def add_researcher(app: FastAPI, context: ServerContext, secret: str) -> None:
    """Add the routes under `/researcher`, and the sessions of who logs in with the secret."""
    sessions = Sessions(secret)
    pages = _Pages(context, sessions)
    router = APIRouter(prefix=PREFIX)
    router.add_api_route("", pages.front)
    router.add_api_route("/figures", pages.figures)
    for name in ("login", "logout", "export"):
        router.add_api_route(f"/{name}", getattr(pages, name), methods=["POST"])
    for name in pages.steps:
        router.add_api_route(f"/{name}", pages.take_step, methods=["POST"])
    app.include_router(router)
    app.mount(f"{PREFIX}/static", StaticFiles(directory=FOLDER / "static"))
    app.add_middleware(_SessionCookie, key=sessions.signing_key)


class TooManyTriesError(Exception):
    """Too many wrong secrets within the minute: not even the right one is looked at."""


class Sessions:
    """Who is logged in: one secret and few tries. What a session holds lies signed in its cookie.

    The key is this process's, so a restart ends all sessions, and with them those of an earlier
    secret; so does logging out, since a copy of a cookie can't be taken back one by one. clock:
    seconds that only grow.
    """

    def __init__(self, secret: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.signing_key = secrets.token_hex(32)
        self._secret = _hash(secret)
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong: list[float] = []
        self._epoch = secrets.token_hex(16)

    def log_in(self, secret: str) -> SessionData | None:
        """A new session; None where the secret is wrong. Raises TooManyTriesError."""
        now = self._clock()
        with self._lock:
            self._wrong = [at for at in self._wrong if at > now - 60]
            if len(self._wrong) >= TRIES_A_MINUTE:
                raise TooManyTriesError
            # Hashes are of one length, so the time this takes tells nothing of the secret.
            if not hmac.compare_digest(_hash(secret), self._secret):
                self._wrong.append(now)
                return None
            csrf = secrets.token_urlsafe(32)
            return {"epoch": self._epoch, "ends_at": now + LASTS_SECONDS, "csrf": csrf}

    def is_open(self, session: SessionData) -> bool:
        """Whether what a cookie holds is a session that has not ended."""
        return session.get("epoch") == self._epoch and session["ends_at"] > self._clock()

    def log_out(self) -> None:
        """End all sessions."""
        with self._lock:
            self._epoch = secrets.token_hex(16)


class _SessionCookie:
    """Starlette's session, for this page only; its cookie is marked Secure wherever the browser
    speaks https, also to a proxy in front of us."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        made = partial(SessionMiddleware, app, key, COOKIE, LASTS_SECONDS, PREFIX, "strict")
        self._http, self._https = made(https_only=False), made(https_only=True)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            asked = HTTPConnection(scope)
            forwarded = asked.headers.get("x-forwarded-proto")
            app = self._https if "https" in (asked.url.scheme, forwarded) else self._http
        await app(scope, receive, send)


def is_own_page(request: Request) -> bool:
    """Whether a form was sent from a page of this server: a browser always says from where, and no
    other site can make it lie."""
    origin = urlsplit(request.headers.get("origin", ""))
    host = request.headers.get("host", "")
    return origin.scheme in ("http", "https") and bool(host) and origin.netloc == host


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class _Pages:
    def __init__(self, context: ServerContext, sessions: Sessions) -> None:
        self._context = context
        self._store: Store = context.store
        self._sessions = sessions
        self.steps = {"pause": self._pause, "resume": self._resume, "erase": self._erase}
        self._env = Environment(
            loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )

    def front(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return self._login_page()
        own = {"csrf": session["csrf"], "notice": session.pop("notice", "")}  # told once
        return self._page("page.html", self._figures() | own)

    def figures(self, request: Request) -> Response:
        """The part of the page that changes by itself."""
        if self._session(request) is None:
            raise HTTPException(401)
        return self._page("figures.html", self._figures())

    async def login(self, request: Request) -> Response:
        if not is_own_page(request):
            raise HTTPException(403)
        secret = (await _form(request)).get("secret", "")
        try:
            session = self._sessions.log_in(secret)
        except TooManyTriesError:
            return self._login_page("Too many wrong tries. Please wait a minute.", 429)
        if session is None:
            return self._login_page("That is not the secret.", 401)
        request.session.update(session)
        return _back(request.session)

    async def logout(self, request: Request) -> Response:
        await self._sent(request)
        self._sessions.log_out()
        request.session.clear()
        return RedirectResponse(PREFIX, status_code=303)

    async def take_step(self, request: Request) -> Response:
        """Do what a form asks for, and show on the page what came of it."""
        session, form = await self._sent(request)
        step = self.steps[request.url.path.rpartition("/")[2]]
        try:
            return _back(session, await run_in_threadpool(step, form))
        except SaifError as error:
            return _back(session, error.sentence)

    async def export(self, request: Request) -> Response:
        session, form = await self._sent(request)
        try:
            content = await run_in_threadpool(self._zip, form)
        except SaifError as error:
            return _back(session, error.sentence)
        name = f"{self._store.study.id}-{form['profile']}.zip"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/zip", headers=headers)

    def _pause(self, _form: Form) -> str:
        self._store.set_paused(True, actor=ACTOR)
        return ""  # the figures tell that it is paused

    def _resume(self, _form: Form) -> str:
        self._store.set_paused(False, actor=ACTOR)
        return "The study goes on."

    def _erase(self, form: Form) -> str:
        who, scope = form.get("who", "").strip(), form.get("scope", "")
        if scope not in get_args(Scope) or form.get("sure") != "yes":
            hint = "Choose what to do, and say you are sure."
            raise InputError("Nothing was changed.", hint=hint)
        name = self._store.of_receipt(who) if "-" in who else who
        withdraw(self._store, name, scope, actor=ACTOR)  # type: ignore[arg-type]  # looked at above
        self._context.finished()  # so that the copy forgets it now, too
        told = "erased" if scope == "erase" else "left out of the analysis"
        return f"Participant {name} is {told}."

    def _zip(self, form: Form) -> bytes:
        """An export, packed in memory: nothing of it stays on the server's disk."""
        profile = form.get("profile", "")
        if profile not in get_args(Profile):
            raise InputError("Please choose what to export.")
        look(self._store, form.get("reason", ""), actor=ACTOR)
        packed = io.BytesIO()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / f"{self._store.study.id}-{profile}"
            export(self._store, folder, profile=profile, actor=ACTOR)  # type: ignore[arg-type]
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
                for path in sorted(folder.iterdir()):
                    file.write(path, f"{folder.name}/{path.name}")
        return packed.getvalue()

    async def _sent(self, request: Request) -> tuple[SessionData, Form]:
        """The session and the form of a request that changes something; refused unless it was sent
        by somebody logged in, from this very page."""
        session = self._session(request)
        if session is None:
            raise HTTPException(401)
        form = await _form(request)
        csrf = form.get("csrf", "").encode()
        if not is_own_page(request) or not hmac.compare_digest(session["csrf"].encode(), csrf):
            raise HTTPException(403)
        return session, form

    def _session(self, request: Request) -> SessionData | None:
        """The session that a request belongs to; changes to it are in the reply's cookie."""
        return request.session if self._sessions.is_open(request.session) else None

    def _figures(self) -> dict[str, object]:
        return {
            "study": self._store.study,
            "status": status(self._store),
            "quality": quality(self._store),
            "hurried_ms": HURRIED_MS,
            "early_looks": early_looks(self._store),
            "max_reason": MAX_REASON,
        }

    def _login_page(self, problem: str = "", code: int = 200) -> Response:
        return self._page("login.html", {"study": self._store.study, "problem": problem}, code)

    def _page(self, name: str, values: Mapping[str, object], code: int = 200) -> HTMLResponse:
        return HTMLResponse(self._env.get_template(name).render(values, prefix=PREFIX), code)


async def _form(request: Request) -> Form:
    """The fields of a form, the last of each name. What is no form has none."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        fields = parse_qs(body, max_num_fields=20)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}


def _back(session: SessionData, notice: str = "") -> RedirectResponse:
    """To the page, which shows the notice."""
    session["notice"] = notice[:MAX_NOTICE]
    return RedirectResponse(PREFIX, status_code=303)
