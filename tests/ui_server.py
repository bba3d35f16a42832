"""The page on the tiny model, served for tests on a free port, and a visitor who calls it."""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from made_up import planted_sae
from tiny import MODEL_ID, tiny_library, tiny_model

from saif.decoding import Step, never
from saif.engine.local import LocalEngine
from saif.engine.protocol import Engine, Request
from saif.errors import ModelError
from saif.experiments import build
from saif.experiments.calibrate.budget import BUDGETS, SearchBudget
from saif.presets.library import SHIPPED, Library
from saif.presets.preset import ModelRef
from saif.runtime.batch import Batch, StepResult
from saif.ui.admin.service import ModelAdmin
from saif.ui.app import build_app
from saif.ui.launch import serve
from saif.ui.services import Services


class SpyEngine:
    """The local engine, slowed down so that a test can step in, noting what it is asked."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.reset()
        model: Any = engine.language_model
        advance = model.decode_step

        def slowly(batch: Batch, token_ids: Sequence[int]) -> StepResult:
            time.sleep(self.seconds_per_step)
            result: StepResult = advance(batch, token_ids)
            return result

        model.decode_step = slowly

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

    @property
    def about(self) -> str:
        return self.engine.about

    def forget(self, cache_key: str | None = None) -> None:
        self.engine.forget(cache_key)

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
def page(
    library: Library,
    model_id: str,
    engine: "Future[Engine]",
    models: "Mapping[str, Callable[[], Engine]] | None" = None,
) -> Iterator[str]:
    """The address of a running page. models: what its owner can load."""
    services = Services(library, model_id, engine, can_build=models is not None)
    app = build_app(services, None if models is None else admin(services, models))
    try:
        yield serve(app, "127.0.0.1", free_port())
    finally:
        app.close(verbose=False)


EFFORT = SearchBudget(
    first=2, first_tokens=3, second=2, third=4, max_new_tokens=4, identify_on=4,
    semifinalists=1, finalists=1, baseline_semifinalists=1, baseline_finalists=1,
)  # fmt: skip


def owner_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Two presets that ship, an SAE at two layers, and a folder of the user's own. Building a
    preset takes a second."""
    (folder / "shipped").mkdir()
    shipped = tiny_library(folder / "shipped", tiny_model())
    (shipped.root / "contents").symlink_to(SHIPPED / "contents")
    for layer in (1, 3):
        shipped.sae_folder(MODEL_ID, layer).mkdir(parents=True)
    monkeypatch.setattr(
        build, "load_sae", lambda source: replace(planted_sae(int(Path(source).name)), id=source)
    )
    monkeypatch.setattr(build, "BUDGETS", dict.fromkeys(BUDGETS, EFFORT))
    return Library(shipped.root, own=folder / "own")


def admin(services: Services, models: "Mapping[str, Callable[[], Engine]]") -> ModelAdmin:
    def check(name: str, quantize: str, freed: int) -> None:
        if name not in models:
            raise ModelError(f"There is no model '{name}'.", hint="Try another.")

    def load(name: str, quantize: str) -> Engine:
        return models[name]()

    return ModelAdmin(services, load, check, name=services.current.model_id, quantize="none")


CONTROLS: dict[str, Any] = {
    "preset": "translate-french",
    "placement": "post",
    "strength": 1.0,
    "k": 4,
    "layer": 1,
    "span": "response",
    "with_prompted": False,
    "temperature": 0.0,
    "top_p": 1.0,
    "repetition_penalty": 1.1,
    "max_new_tokens": 12,
    "seed": 0,
}
UNSTEERED, STEERED, PROMPTED, NOTICE, MESSAGE = range(5)
"""Places in what an endpoint returns; gradio's client leaves the states out."""


class Visitor:
    """One browser tab's worth of calls."""

    def __init__(self, url: str) -> None:
        self.client = Client(url, verbose=False, httpx_kwargs={"timeout": 60})

    def send(self, text: str, **changed: Any) -> "Answer":
        return Answer(self.client.predict(text, *_values(changed), api_name="/ask"))

    def retry(self, **changed: Any) -> "Answer":
        return Answer(self.client.predict(*_values(changed), api_name="/retry"))

    def start(self, text: str, **changed: Any) -> Any:
        return self.client.submit(text, *_values(changed), api_name="/ask")

    def stop(self) -> None:
        self.client.predict(api_name="/stop")


class Answer:
    """What the page shows after a turn."""

    def __init__(self, outputs: tuple[Any, ...]) -> None:
        self.outputs = outputs

    def column(self, place: int) -> list[str]:
        """Alternating: what was asked, what was replied, the caption."""
        return [_text(message) for message in self.outputs[place]]

    def reply(self, place: int) -> str:
        return self.column(place)[-2]

    def caption(self, place: int) -> str:
        return re.sub(r"<[^>]+>", "", self.column(place)[-1])


def _values(changed: Mapping[str, Any]) -> list[Any]:
    assert changed.keys() <= CONTROLS.keys()
    return list({**CONTROLS, **changed}.values())


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
