"""The page on the tiny model, served for tests: through gradio's own server, on a free port."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from saif.engine import Engine, LocalEngine, Request
from saif.generation import Step, never
from saif.presets.library import Library
from saif.presets.preset import ModelRef
from saif.ui.app import build_app
from saif.ui.launch import serve
from saif.ui.services import Services


class SpyEngine:
    """The local engine, slowed down so that a test can step in, noting what it is asked."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.reset()

    def reset(self) -> None:
        self.seconds_per_step = 0.0
        self.asked: list[Sequence[Request]] = []
        self.steps = 0
        self.steps_after_cancel = 0
        self.ended = threading.Event()
        self.fail_at: int | None = None

    @property
    def model(self) -> ModelRef:
        return self.engine.model

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        self.asked.append(requests)
        self.ended.clear()
        try:
            for number, step in enumerate(self.engine.stream(requests, cancelled=cancelled)):
                if number == self.fail_at:
                    raise ZeroDivisionError("a bug")
                self.steps += 1
                self.steps_after_cancel += cancelled()
                time.sleep(self.seconds_per_step)
                yield step
        finally:
            self.ended.set()


def loaded(engine: Engine) -> "Future[Engine]":
    future: Future[Engine] = Future()
    future.set_result(engine)
    return future


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def page(library: Library, model_id: str, engine: "Future[Engine]") -> Iterator[str]:
    """The address of a running page."""
    app = build_app(Services(library, model_id, engine))
    try:
        yield serve(app, "127.0.0.1", free_port())
    finally:
        app.close(verbose=False)
