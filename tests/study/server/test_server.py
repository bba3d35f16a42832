"""What holds for every request and reply: headers, the length of a body, what a failure says."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from made_up_studies import study
from running_study import Running, served

from saif.errors import InputError, ModelError, SaifError, StudyError
from saif.study.participation import steps
from saif.study.server.app import MAX_BODY_BYTES
from saif.study.store.database import NotSavedError
from saif.study.store.store import DisconnectedError

LINK = {"kind": "link"}
MTURK = {"kind": "mturk", "sandbox": True}
MTURK_FRAMES = "https://*.mturk.com https://*.mturkcontent.com"
MTURK_FORMS = "'self' https://www.mturk.com https://workersandbox.mturk.com"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with served(tmp_path) as running:
        yield running


def policy(reply: httpx.Response) -> dict[str, str]:
    parts = reply.headers["content-security-policy"].split("; ")
    return {name: allowed for name, _, allowed in (part.partition(" ") for part in parts)}


@pytest.mark.parametrize(
    ("recruitment", "in_space", "frames", "forms"),
    [
        (LINK, False, "'none'", "'self'"),
        (LINK, True, "https://huggingface.co", "'self'"),
        (MTURK, False, MTURK_FRAMES, MTURK_FORMS),
        (MTURK, True, MTURK_FRAMES, MTURK_FORMS),
    ],
)
def test_a_page_loads_sends_and_is_framed_only_where_it_must_be(
    tmp_path: Path, recruitment: dict[str, object], in_space: bool, frames: str, forms: str
) -> None:
    with served(tmp_path, in_space=in_space, recruitment=recruitment) as running:
        assert policy(httpx.get(running.page)) == {
            "default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
            "connect-src": "'self'", "img-src": "'self' data:", "base-uri": "'none'",
            "form-action": forms, "frame-ancestors": frames,
        }  # fmt: skip


@pytest.mark.parametrize(("length", "status"), [(MAX_BODY_BYTES, 422), (MAX_BODY_BYTES + 1, 413)])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_body_may_have_so_many_bytes_and_no_more(
    running: Running, length: int, status: int, in_pieces: bool
) -> None:
    body = b'{"query": {"key": "'.ljust(length - 3, b"x") + b'"}}'

    def pieces() -> Iterator[bytes]:
        for start in range(0, length, length // 4):
            yield body[start : start + length // 4]
            time.sleep(0.05)  # so that each comes by itself

    reply = httpx.post(
        f"{running.page}/enter",
        content=pieces() if in_pieces else body,
        headers={"Content-Type": "application/json"},
    )
    assert reply.status_code == status
    assert reply.json()["error"]


def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def begin(*_: object) -> None:
        raise error

    monkeypatch.setattr(steps, "begin", begin)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (DisconnectedError, 401), (NotSavedError, 503), (InputError, 422), (StudyError, 409),
        (ModelError, 400),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do_and_whether_to_try_again(
    running: Running, monkeypatch: pytest.MonkeyPatch, kind: type[SaifError], status: int
) -> None:
    visitor = running.visitor()
    visitor.agree()
    refusing(monkeypatch, kind("That is not so.", hint="Do this."))
    reply = visitor.send("begin")
    assert reply.status_code == status
    assert reply.json() == {"error": "That is not so.", "hint": "Do this."}


def test_a_bug_is_told_as_a_reference_and_nobody_is_named_in_the_log(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    visitor = running.visitor()
    visitor.agree()
    refusing(monkeypatch, ZeroDivisionError("a bug"))
    usual = httpx.get(running.page).headers
    headers = {"Authorization": f"Bearer {visitor.token}"}
    reply = visitor.client.post("/begin", params={"key": "CANARY"}, headers=headers)
    assert reply.status_code == 500
    found = re.fullmatch(r"Something went wrong .+ \(reference (\w+)\)\.", reply.json()["error"])
    assert found is not None
    assert f"Reference {found[1]} at /study/tiny-study/begin" in caplog.text
    assert "CANARY" not in caplog.text
    for name in ("content-security-policy", "cache-control", "permissions-policy"):
        assert reply.headers[name] == usual[name]


def test_the_study_s_own_texts_are_no_markup(tmp_path: Path) -> None:
    hostile = '<img src="http://elsewhere/"> ![](http://elsewhere/) *Then:* ' + study().consent.text
    with served(
        tmp_path, title="<b>Answers</b>", consent__text=hostile, debrief=hostile
    ) as running:
        visitor = running.visitor()
        page = visitor.client.get(visitor.page).text
        visitor.agree()
        visitor.ask("begin")
        debrief = visitor.ask("stop", scope=None)["debrief"]
    assert "<b>Answers" not in page
    for shown in (page, debrief):
        assert "<em>Then:</em>" in shown
        assert "<img" not in shown


def test_a_proxy_is_told_not_to_hold_lines_back(running: Running) -> None:
    visitor = running.visitor()
    visitor.agree()
    reply = visitor.send("turn", trial=visitor.ask("begin")["trial"]["id"], k=0)
    assert reply.headers["x-accel-buffering"] == "no"
