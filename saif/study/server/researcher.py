"""The researcher's page: how the study is going, its stop, erasures and exports.

It is a door of its own: off without a secret, and nothing on it works without logging in. It tells
counts and quality; the outcome stays hidden until the study has all its participants.
"""

import io
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader
from starlette.concurrency import run_in_threadpool

from saif.errors import InputError, SaifError
from saif.study.data.export import export
from saif.study.data.monitoring import HURRIED_MS, quality
from saif.study.data.status import status
from saif.study.data.tables import Profile
from saif.study.data.unblinding import MAX_REASON, early_looks, look
from saif.study.durability.erasure import Scope, withdraw
from saif.study.server.context import ServerContext
from saif.study.server.sessions import (
    COOKIE,
    LASTS_SECONDS,
    Session,
    Sessions,
    TooManyTriesError,
    is_csrf,
    is_https,
    is_own_page,
)
from saif.study.store.store import Store

PREFIX = "/researcher"
ACTOR = "researcher"

FOLDER = Path(__file__).parent / "researcher"
STATIC = ("researcher.css", "researcher.js")

Form = dict[str, str]


def researcher_router(desk: ServerContext, secret: str | None) -> APIRouter:
    """The routes under `/researcher`; none without a secret, so that all of them are 404."""
    router = APIRouter(prefix=PREFIX)
    if secret is None:
        return router
    pages = _Pages(desk, Sessions(secret))
    router.add_api_route("", pages.front, methods=["GET"])
    router.add_api_route("/static/{name}", pages.static, methods=["GET"])
    router.add_api_route("/figures", pages.figures, methods=["GET"])
    for name in ("login", "logout", "pause", "resume", "erase", "export"):
        router.add_api_route(f"/{name}", getattr(pages, name), methods=["POST"])
    return router


class _Pages:
    def __init__(self, desk: ServerContext, sessions: Sessions) -> None:
        self._desk = desk
        self._store: Store = desk.store
        self._sessions = sessions
        self._env = Environment(
            loader=FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )

    # What can be seen

    def front(self, request: Request) -> Response:
        session = self._sessions.find(request)
        if session is None:
            return self._login_page()
        own = {"csrf": session.csrf, "notice": session.take_notice()}
        return self._page("page.html", self._figures() | own)

    def figures(self, request: Request) -> Response:
        """The part of the page that changes by itself."""
        if self._sessions.find(request) is None:
            raise HTTPException(401)
        return self._page("figures.html", self._figures())

    def static(self, name: str) -> FileResponse:
        if name not in STATIC:
            raise HTTPException(404)
        return FileResponse(FOLDER / "static" / name)

    # What can be done

    async def login(self, request: Request) -> Response:
        if not is_own_page(request):
            raise HTTPException(403)
        secret = (await _form(request)).get("secret", "")
        try:
            cookie = self._sessions.log_in(secret)
        except TooManyTriesError:
            return self._login_page("Too many wrong tries. Please wait a minute.", 429)
        if cookie is None:
            return self._login_page("That is not the secret.", 401)
        answer = _back()
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=LASTS_SECONDS,
            path=PREFIX,
            secure=is_https(request),
            httponly=True,
            samesite="strict",
        )
        return answer

    async def logout(self, request: Request) -> Response:
        await self._sent(request)
        self._sessions.log_out(request)
        answer = _back()
        answer.delete_cookie(COOKIE, path=PREFIX)
        return answer

    async def pause(self, request: Request) -> Response:
        session, _ = await self._sent(request)
        return await self._done(session, lambda _store: self._set_paused(True))

    async def resume(self, request: Request) -> Response:
        session, _ = await self._sent(request)
        return await self._done(session, lambda _store: self._set_paused(False))

    async def erase(self, request: Request) -> Response:
        session, form = await self._sent(request)
        return await self._done(session, lambda store: self._erase(store, form))

    async def export(self, request: Request) -> Response:
        session, form = await self._sent(request)
        try:
            content = await run_in_threadpool(self._zip, form)
        except SaifError as error:
            session.notice = error.sentence
            return _back()
        name = f"{self._store.study.id}-{form['profile']}.zip"
        return Response(
            content,
            media_type="application/zip",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    def _set_paused(self, paused: bool) -> str:
        self._store.set_paused(paused, actor=ACTOR)
        return "" if paused else "The study goes on."  # the figures tell that it is paused

    def _erase(self, store: Store, form: Form) -> str:
        who, scope = form.get("who", "").strip(), form.get("scope", "")
        if scope not in get_args(Scope) or form.get("sure") != "yes":
            raise InputError(
                "Nothing was changed.", hint="Choose what to do, and say you are sure."
            )
        name = store.of_receipt(who) if "-" in who else who
        withdraw(store, name, scope, actor=ACTOR)  # type: ignore[arg-type]  # looked at above
        self._desk.finished()  # so that the copy forgets it now, too
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

    # How

    async def _sent(self, request: Request) -> tuple[Session, Form]:
        """The session and the form of a request that changes something; refused unless it was sent
        by somebody logged in, from this very page."""
        session = self._sessions.find(request)
        if session is None:
            raise HTTPException(401)
        form = await _form(request)
        if not is_own_page(request) or not is_csrf(session, form.get("csrf", "")):
            raise HTTPException(403)
        return session, form

    async def _done(self, session: Session, step: Callable[[Store], str]) -> Response:
        """Take a step, and tell on the page what came of it."""
        try:
            session.notice = await run_in_threadpool(step, self._store)
        except SaifError as error:
            session.notice = error.sentence
        return _back()

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
        page = self._env.get_template(name).render(values, prefix=PREFIX)
        return HTMLResponse(page, code, headers={"Cache-Control": "no-store"})


async def _form(request: Request) -> Form:
    """The fields of a form, the last of each name. What is no form has none."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        fields = parse_qs(body, max_num_fields=20)
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}


def _back() -> RedirectResponse:
    return RedirectResponse(PREFIX, status_code=303)
