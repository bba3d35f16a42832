"""A study on the tiny model behind a real server, and visitors who speak to it as the page does."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from made_up_participants import KEY
from made_up_studies import study
from tiny import MODEL_ID, tiny_library, tiny_model

from saif.decoding import Step, never
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Engine, Request
from saif.presets.library import Library
from saif.presets.preset import ModelRef
from saif.runtime.language_model import LanguageModel
from saif.study.design.publish import Version, publish
from saif.study.participation.answers import AnswerGenerator
from saif.study.server.app import build_app
from saif.study.server.context import ServerContext
from saif.study.server.streaming import Streams
from saif.study.store.store import Store

QUESTIONS = [
    {"kind": "likert", "id": "fluent", "when": "trial", "points": 5, "low": "not", "high": "very",
     "text": "How fluent?", "required": False},
    {"kind": "guess", "id": "guess", "text": "Which one was it?"},
    {"kind": "text", "id": "remarks", "when": "end", "text": "Anything else?"},
]  # fmt: skip
SMALL: dict[str, Any] = {
    "id": "tiny-study",
    "model": MODEL_ID,
    "trials__main": 2,
    "questions": QUESTIONS,
    "attention": [{"id": "look", "after": 1, "answer": "L", "text": "Choose the left one."}],
    "failed_checks": 0,
    "quota__complete": 1000,
    "generation__max_new_tokens": 8,
}
FREE = {"kind": "free", "task": "Ask for something."}


@cache
def the_model() -> LanguageModel:
    return tiny_model()


@dataclass
class SlowEngine:
    """The engine, slowed down or failing where a test wants it, counting what it is asked."""

    engine: Engine
    seconds_per_step: float = 0.0
    fail_at: int | None = None
    error: Exception = field(default_factory=lambda: ZeroDivisionError("a bug"))
    asked: list[Sequence[Request]] = field(default_factory=list)
    steps: int = 0
    running: int = 0
    cancelled: Callable[[], bool] = never

    @property
    def model(self) -> ModelRef:
        return self.engine.model

    @property
    def about(self) -> str:
        return self.engine.about

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        self.asked.append(requests)
        self.cancelled = cancelled
        self.running += 1
        try:
            for number, step in enumerate(self.engine.stream(requests, cancelled=cancelled)):
                if number == self.fail_at:
                    raise self.error
                time.sleep(self.seconds_per_step)
                self.steps += 1
                yield step
        finally:
            self.running -= 1


@dataclass
class Running:
    """A study that is being served."""

    url: str
    store: Store
    engine: SlowEngine
    context: ServerContext

    @property
    def page(self) -> str:
        return f"{self.url}/study/{self.store.study.id}"

    def visitor(self, key: str = "visitor-1", **query: str) -> "Visitor":
        return Visitor(self.page, query or {"key": key})


def version_of(folder: Path, library: Library, **changes: Any) -> Version:
    return publish(study(**{**SMALL, **changes}), library, folder)[0]


@contextmanager
def served(
    folder: Path,
    *,
    shared: bool = False,
    is_safe: Callable[[str], bool] = lambda _participant: True,
    finished: Callable[[], None] = lambda: None,
    in_space: bool = False,
    **changes: Any,
) -> Iterator[Running]:
    """shared: many visitors' answers decode together, as they do in earnest."""
    library = the_library(folder)
    store = Store(folder / "study", version_of(folder / "study", library, **changes), KEY)
    engine = SlowEngine((SharedEngine if shared else LocalEngine)(the_model()))
    streams = Streams(store, AnswerGenerator(store.study, library, engine))
    context = ServerContext(store, streams, is_safe, finished)
    server = uvicorn.Server(
        uvicorn.Config(
            build_app(context, in_space=in_space), host="127.0.0.1", port=0, log_level="error"
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", store, engine, context)
    finally:
        streams.close()
        server.should_exit = True
        thread.join(10)
        store.close()


def the_library(folder: Path) -> Library:
    root = folder / "presets"
    if not root.exists():
        root.mkdir(parents=True)
        return tiny_library(root, the_model())
    return Library(root)


class Visitor:
    """A participant without a browser. Every reply is kept in `heard`."""

    def __init__(self, page: str, query: dict[str, str]) -> None:
        self.page = page
        self.query = query
        self.token = ""
        self.receipt = ""
        self.heard: list[bytes] = []
        self.client = httpx.Client(base_url=page, timeout=60)

    def send(self, step: str, **body: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        reply = self.client.post(f"/{step}", json=body, headers=headers)
        self.heard.append(reply.content)
        return reply

    def ask(self, step: str, **body: object) -> dict[str, Any]:
        reply = self.send(step, **body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        if "token" in found:
            self.token, self.receipt = found["token"], found["receipt"]
        return found

    def enter(self) -> dict[str, Any]:
        self.token = ""
        return self.ask("enter", query=self.query)

    def agree(self, *, share_text: bool = True) -> dict[str, Any]:
        sha = self.client.get(self.page).text.partition('data-sha="')[2].partition('"')[0]
        return self.ask("consent", query=self.query, consent_sha256=sha, share_text=share_text)

    def turn(self, trial: str, k: int = 0, text: str | None = None) -> list[dict[str, Any]]:
        """The lines of one turn."""
        body = {"trial": trial, "k": k, "text": text}
        headers = {"Authorization": f"Bearer {self.token}"}
        with self.client.stream("POST", "/turn", json=body, headers=headers) as reply:
            lines = list(reply.iter_lines())
        self.heard.append("\n".join(lines).encode())
        return [json.loads(line) for line in lines]

    def ready(self, text: str = "A message.") -> tuple[dict[str, Any], str]:
        """The trial that is due, and the id of its vote."""
        trial = self.ask("begin")["trial"]
        vote_id, k, message = trial.get("vote_id"), 0, trial.get("message")
        while vote_id is None:
            last = self.turn(trial["id"], k, text if message is None else None)[-1]
            assert last.get("done"), last
            vote_id, message, k = last.get("vote_id"), last.get("message"), k + 1
        return trial, vote_id

    def vote(self, choice: str = "L", **more: object) -> dict[str, Any]:
        """Judge the trial that is due; it as it was begun."""
        trial, vote_id = self.ready()
        self.ask("vote", vote_id=vote_id, choice=choice, **more)
        return trial

    def walk(self, choose: Callable[[dict[str, Any]], str] = lambda trial: "L") -> dict[str, Any]:
        """From wherever they are to the end; what the last page shows."""
        page = self.ask("next")
        while page["page"] != "ended":
            if page["page"] == "trial":
                trial, vote_id = self.ready()
                self.ask("vote", vote_id=vote_id, choice=choose(trial))
            elif page["page"] == "finish":
                self.ask("finish")
            else:
                trial_id = page.get("trial", {}).get("id")
                for question in page["questions"]:
                    value = {"likert": 3, "guess": "unsure", "text": "none"}[question["kind"]]
                    self.ask("respond", question=question["id"], value=value, trial=trial_id)
            page = self.ask("next")
        return page


PROLIFIC = {
    "kind": "prolific", "complete": "C0MPLETE", "screened_out": "SCREEN0UT",
    "no_consent": "NOC0NSENT", "partial": "PARTIAL1",
}  # fmt: skip
PID = "5f0123456789abcdef012345"


def census(running: Running) -> dict[str, list[object]]:
    """Everything in both files."""
    found: dict[str, list[object]] = {}
    for database in (running.store.database, running.store.identities):
        with database.snapshot() as db:
            tables = [
                row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            ]
            for table in tables:
                found[table] = [tuple(row) for row in db.execute(f"SELECT * FROM {table}")]
    return found
