"""Who is logged in as the researcher: one secret, few tries, sessions that only memory holds."""

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import Request

COOKIE = "researcher"
LASTS_SECONDS = 8 * 3600
TRIES_A_MINUTE = 5
SESSIONS_AT_MOST = 20
"""The oldest ends when there are more."""


class TooManyTriesError(Exception):
    """Too many wrong secrets within the minute: not even the right one is looked at."""


@dataclass(slots=True)
class Session:
    """csrf: must stand in every form that is sent. notice: told on the next page, once."""

    csrf: str
    ends_at: float
    notice: str = ""

    def take_notice(self) -> str:
        told, self.notice = self.notice, ""
        return told


class Sessions:
    """The sessions of one server. clock: seconds that only grow."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret = _hash(secret)
        self._clock = clock
        self._lock = threading.Lock()
        self._open: dict[bytes, Session] = {}
        self._wrong: list[float] = []

    def log_in(self, secret: str) -> str | None:
        """The cookie of a new session; None where the secret is wrong. Raises TooManyTriesError."""
        now = self._clock()
        with self._lock:
            self._wrong = [at for at in self._wrong if at > now - 60]
            if len(self._wrong) >= TRIES_A_MINUTE:
                raise TooManyTriesError
            # Hashes are of one length, so the time this takes tells nothing of the secret.
            if not hmac.compare_digest(_hash(secret), self._secret):
                self._wrong.append(now)
                return None
            cookie = secrets.token_urlsafe(32)
            self._open[_hash(cookie)] = Session(secrets.token_urlsafe(32), now + LASTS_SECONDS)
            while len(self._open) > SESSIONS_AT_MOST:
                del self._open[next(iter(self._open))]
            return cookie

    def find(self, request: Request) -> Session | None:
        """The session that a request belongs to."""
        cookie = _hash(request.cookies.get(COOKIE, ""))
        with self._lock:
            found = self._open.get(cookie)
            if found is not None and found.ends_at <= self._clock():
                del self._open[cookie]
                return None
            return found

    def log_out(self, request: Request) -> None:
        with self._lock:
            self._open.pop(_hash(request.cookies.get(COOKIE, "")), None)


def is_own_page(request: Request) -> bool:
    """Whether a form was sent from a page of this server: a browser always says from where, and no
    other site can make it lie."""
    origin = urlsplit(request.headers.get("origin", ""))
    host = request.headers.get("host", "")
    return origin.scheme in ("http", "https") and bool(host) and origin.netloc == host


def is_csrf(session: Session, given: str) -> bool:
    return hmac.compare_digest(session.csrf.encode(), given.encode())


def is_https(request: Request) -> bool:
    """Also where a proxy in front speaks https for us."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
