"""Opening a published study: what is checked before anyone can come, and what is put together."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from made_up_participants import KEY
from running_study import the_library, the_model, version_of
from tiny import tiny_model

from saif.errors import SaifError
from saif.presets.library import Library
from saif.study.durability.housekeeping import Housekeeper
from saif.study.opening import open_study
from saif.study.server import serve
from saif.study.server.context import ServerContext
from saif.study.store.identities import KEY_VARIABLE, SECRET_VARIABLE


@dataclass
class Opening:
    """A published study. meanwhile: done while it is served. served: what was, each time."""

    folder: Path
    library: Library
    port: int
    meanwhile: Callable[[FastAPI], None] = lambda _: None
    served: list[FastAPI] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def open(self) -> ServerContext:
        serve.open_to_participants(
            self.folder, self.library, "127.0.0.1", self.port, say=self.said.append
        )
        found: ServerContext = self.served[-1].state.context
        return found

    def serve(self, app: FastAPI, *_: object) -> None:
        self.served.append(app)
        self.meanwhile(app)


@pytest.fixture
def opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    for name in (SECRET_VARIABLE, "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    opening = Opening(tmp_path / "study", the_library(tmp_path), port)
    version_of(opening.folder, opening.library)
    monkeypatch.setattr(serve, "load_model", lambda *_, **__: the_model())
    monkeypatch.setattr(serve, "serve", opening.serve)
    return opening


def refused(opening: Opening, why: str) -> None:
    with pytest.raises(SaifError, match=why):
        opening.open()
    assert opening.served == []


def test_presets_that_changed_are_refused(opening: Opening) -> None:
    for card in opening.library.root.rglob("*.json"):
        card.write_text(card.read_text("utf-8") + "\n", "utf-8")
    refused(opening, "is not the file that the study was published with")


def test_other_weights_are_refused(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "load_model", lambda *_, **__: tiny_model(seed=1))
    refused(opening, "are not those the study was published with")


def test_a_port_that_is_taken_is_refused(opening: Opening) -> None:
    with socket.create_server(("127.0.0.1", opening.port)):
        refused(opening, "Nothing can be served")


def test_a_folder_without_a_study_is_refused_and_left_as_it_is(opening: Opening) -> None:
    opening.folder = opening.folder.with_name("nowhere")
    refused(opening, "No study was published")
    assert not opening.folder.exists()


def test_one_server_serves_a_study_and_another_after_it(opening: Opening) -> None:
    def twice(_: FastAPI) -> None:
        with pytest.raises(SaifError, match="is being served already"):
            opening.open()

    opening.meanwhile = twice
    opening.open()
    opening.open()
    assert len(opening.served) == 2


def test_a_study_is_put_together_so_that_a_code_waits_and_nothing_is_left_open(
    opening: Opening,
) -> None:
    context = opening.open()
    bound: Any = (context.is_safe, context.finished)
    assert [method.__func__ for method in bound] == [
        Housekeeper.is_safe_to_finish,
        Housekeeper.wake,
    ]
    assert context.streams._answers.engine.prefix_cache is None  # type: ignore[attr-defined]
    assert context.streams._threads._shutdown
    assert not list(opening.folder.glob("*.db-wal"))


@pytest.mark.parametrize("secret", [None, "a secret of the researcher"])
@pytest.mark.parametrize("on_a_space", [False, True])
def test_the_researcher_s_page_and_its_frame_are_where_they_should_be(
    opening: Opening, monkeypatch: pytest.MonkeyPatch, secret: str | None, on_a_space: bool
) -> None:
    if secret:
        monkeypatch.setenv(SECRET_VARIABLE, secret)
    monkeypatch.setattr(serve, "on_a_space", lambda: on_a_space)
    replies = []
    opening.meanwhile = lambda app: replies.append(TestClient(app).get("/researcher"))
    opening.open()
    assert (replies[0].status_code == 404) == (secret is None)
    assert ("huggingface.co" in replies[0].headers["content-security-policy"]) == on_a_space
    assert any("/researcher" in line for line in opening.said) == (secret is not None)
    assert any("/study/tiny-study" in line for line in opening.said)


def test_whoever_opens_a_paused_study_is_told(opening: Opening) -> None:
    store = open_study(opening.folder)
    store.set_paused(True, actor="tests")
    store.close()
    opening.open()
    assert any("paused" in line for line in opening.said)
