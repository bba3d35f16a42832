"""A server that is killed again and again, and visitors who reload, double-click and come back."""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from made_up_participants import KEY, rows
from running_study import Running, Visitor, served

from saif.study.design.publish import versions
from saif.study.store import audit
from saif.study.store.store import Store

TESTS = Path(__file__).parents[1]
PATIENCE = 300.0
"""Seconds for a server to be back; a busy machine takes its time."""
MOST_TRIES = 200
"""At one comparison: a server that lives for a second or two finishes few."""


class RestlessVisitor(Visitor):
    """Sends a step until it is answered, as the page does; reloads, sends twice, and looks through
    an old tab. told: votes that were acknowledged."""

    def __init__(self, page: str, number: int) -> None:
        super().__init__(page, {"key": f"restless-{number}"})
        self.rng = random.Random(number)
        self.told: list[str] = []

    def send(self, step: str, **body: object) -> httpx.Response:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return super().send(step, **body)
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def begun(self) -> tuple[dict[str, Any], str]:
        """Until both answers are there, however often the connection is lost on the way."""
        for _ in range(MOST_TRIES):
            if self.rng.random() < 0.3:
                old = self.token
                self.enter()
                self._stale(old)
            try:
                return self.ready()
            except (httpx.TransportError, AssertionError):
                self.enter()
        raise AssertionError("stuck")

    def _stale(self, old: str) -> None:
        """The tab from before a reload can do nothing any more."""
        new, self.token = self.token, old
        assert self.send("begin").status_code == 401
        self.token = new

    def take_part(self) -> str:
        sha = {"consent_sha256": self._sha()}
        self.ask("consent", query=self.query, share_text=True, **sha)
        while (page := self.ask("next"))["page"] != "ended":
            if page["page"] == "trial":
                _, vote_id = self.begun()
                for _ in range(self.rng.choice([1, 1, 2, 3])):
                    self.told.append(self.ask("vote", vote_id=vote_id, choice="R")["saved"])
            elif page["page"] == "finish":
                self.ask("finish")
            else:
                for question in page["questions"]:
                    value = {"guess": "unsure", "text": "none"}[question["kind"]]
                    self.ask("respond", question=question["id"], value=value)
        return str(page["completion"]["code"])

    def _sha(self) -> str:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                return self.client.get(self.page).text.partition('data-sha="')[2][:64]
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("stuck")


class KilledServer:
    """Starts again wherever it was killed. What it says is in the file `log`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.log = folder / "log"
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("serve_tiny.py")
        folders = (TESTS.parent, TESTS, TESTS / "study", TESTS / "study" / "server")
        path = os.pathsep.join(map(str, folders))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(self.folder), str(self.port)],
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def is_up(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/alive").status_code == 200
        except httpx.TransportError:
            return False

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while not self.is_up():
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def check(folder: Path, port: int, *, kills: int, visitors: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    server = KilledServer(folder, port)
    rng = random.Random(0)
    crowd = [
        RestlessVisitor(f"http://127.0.0.1:{port}/study/tiny-study", i) for i in range(visitors)
    ]
    done = threading.Event()

    def killer() -> None:
        for _ in range(kills):
            server.wait()
            time.sleep(rng.uniform(0.3, 2.0))
            if done.is_set():
                return
            server.kill()
            server.start()

    killing: threading.Thread | None = None
    try:
        server.wait()
        killing = threading.Thread(target=killer)
        killing.start()
        with ThreadPoolExecutor(6) as pool:
            codes = list(pool.map(RestlessVisitor.take_part, crowd))
    finally:
        done.set()  # before the last kill: the killer starts what it kills
        if killing is not None:
            killing.join()
        server.kill()
    store = Store(folder / "study", versions(folder / "study")[-1], KEY)
    store.database.check()
    with store.database.snapshot() as db:
        audit.verify(db)
    stored = [row[0] for row in rows(store, "SELECT vote_id FROM vote")]
    told = {vote for visitor in crowd for vote in visitor.told}
    assert told <= set(stored)
    assert len(stored) == len(set(stored)) == 5 * visitors
    assert len(set(codes)) == visitors
    assert rows(store, "SELECT DISTINCT status FROM participant") == [("complete",)]
    store.close()


def test_a_server_that_is_asked_to_end_does_so_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    server = KilledServer(tmp_path, port := free_port())
    try:
        server.wait()
        visitor = RestlessVisitor(f"http://127.0.0.1:{port}/study/tiny-study", 0)
        assert "server" not in visitor.client.get(visitor.page, params=visitor.query).headers
        sha = visitor._sha()
        visitor.ask("consent", query=visitor.query, share_text=True, consent_sha256=sha)
        trial = visitor.ask("begin")["trial"]["id"]
        headers = {"Authorization": f"Bearer {visitor.token}"}
        body = {"trial": trial, "k": 0}
        with visitor.client.stream("POST", "/turn", json=body, headers=headers) as reply:
            next(reply.iter_lines())
            server.process.terminate()
            began = time.monotonic()
            assert server.process.wait(30) is not None
            assert time.monotonic() - began < 10
    finally:
        server.kill()
    said = server.log.read_text("utf-8")
    for private in (visitor.query["key"], visitor.token, visitor.receipt, trial):
        assert private not in said


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_server_that_is_killed_loses_no_vote_and_no_visitor(disk_path: Path) -> None:
    check(disk_path, free_port(), kills=2, visitors=8)


@pytest.mark.slow
def test_a_server_that_is_killed_a_hundred_times_loses_nothing(disk_path: Path) -> None:
    check(disk_path, free_port(), kills=100, visitors=500)


def test_nobody_is_stuck_however_they_reload(tmp_path: Path) -> None:
    questions = [{"kind": "guess", "id": "guess", "text": "Which one was it?"}]
    with served(tmp_path, shared=True, questions=questions) as running:
        crowd = restless(running, 30)
        with ThreadPoolExecutor(6) as pool:
            codes = list(pool.map(RestlessVisitor.take_part, crowd))
        assert len(set(codes)) == 30
        ended = Counter(row[0] for row in rows(running.store, "SELECT status FROM participant"))
        assert ended == {"complete": 30}
        per_trial = rows(running.store, "SELECT COUNT(*) FROM vote GROUP BY trial_id")
        assert set(per_trial) == {(1,)}


def restless(running: Running, n: int) -> list[RestlessVisitor]:
    return [RestlessVisitor(running.page, number) for number in range(n)]
