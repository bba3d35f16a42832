"""The researcher's page over a real server: closed to everybody else, and telling no outcome."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from made_up_participants import (
    Clock,
    answers,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    published,
    rows,
)
from read_exports import check_sums
from researcher_server import SECRET, serving
from stored_votes import flow

from saif.errors import StudyError
from saif.study.participation.steps import add_exchange, begin, call_off, report
from saif.study.server.researcher import LASTS_SECONDS, Sessions, TooManyTriesError
from saif.study.store.settings import is_paused
from saif.study.store.store import Store

GET = ("/researcher", "/researcher/figures")
POST = tuple(f"/researcher/{step}" for step in ("logout", "pause", "resume", "erase", "export"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path, quota__complete=3)


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    with serving(store) as found:
        yield found


class Researcher:
    """A browser that is logged in, and sends what a browser sends."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = httpx.Client(base_url=address, headers={"Origin": address})

    def log_in(self, secret: str = SECRET) -> httpx.Response:
        return self.client.post("/researcher/login", data={"secret": secret})

    def page(self) -> str:
        return self.client.get("/researcher").text

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.page())
        assert found is not None
        return found[1]

    def send(self, step: str, **fields: str) -> httpx.Response:
        return self.client.post(f"/researcher/{step}", data={"csrf": self.csrf, **fields})


@pytest.fixture
def researcher(address: str) -> Iterator[Researcher]:
    found = Researcher(address)
    assert found.log_in().status_code == 303
    yield found
    found.client.close()


def census(store: Store) -> dict[str, Any]:
    names = [row[0] for row in rows(store, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {name: rows(store, f"SELECT * FROM {name}") for name in names}


# The door


def test_without_a_secret_there_is_no_page(store: Store) -> None:
    with serving(store, None) as address, httpx.Client(base_url=address) as client:
        for path in (*GET, "/researcher/static/researcher.css"):
            assert client.get(path).status_code == 404
        for path in (*POST, "/researcher/login"):
            assert client.post(path, data={"secret": SECRET}).status_code == 404


def test_nothing_works_without_logging_in(store: Store, address: str) -> None:
    name = complete(store)
    before = census(store)
    client = httpx.Client(base_url=address, headers={"Origin": address})
    for cookie in (None, "", "forged", "x" * 43):
        headers = {} if cookie is None else {"Cookie": f"researcher={cookie}"}
        front = client.get("/researcher", headers=headers)
        assert 'type="password"' in front.text
        assert client.get("/researcher/figures", headers=headers).status_code == 401
        for path in POST:
            fields = {"csrf": "", "who": name, "scope": "erase", "sure": "yes", "profile": "full"}
            answer = client.post(path, headers=headers, data=fields)
            assert answer.status_code == 401
            assert name not in front.text + answer.text
    assert census(store) == before


def test_a_form_from_another_site_or_without_its_token_is_refused(
    store: Store, researcher: Researcher
) -> None:
    csrf = researcher.csrf
    before = census(store)
    for origin in ("http://evil.example", "null", "", researcher.address + ".evil.example",
                   researcher.address.replace("http", "ftp")):  # fmt: skip
        for path in POST:
            answer = researcher.client.post(path, data={"csrf": csrf}, headers={"Origin": origin})
            assert answer.status_code == 403, (origin, path)
        login = researcher.client.post(
            "/researcher/login", data={"secret": SECRET}, headers={"Origin": origin}
        )
        assert login.status_code == 403
    del researcher.client.headers["Origin"]
    assert researcher.client.post("/researcher/pause", data={"csrf": csrf}).status_code == 403
    researcher.client.headers["Origin"] = researcher.address
    for wrong in ("", "forged", csrf + "x", csrf[:-1], "ü"):
        answer = researcher.client.post("/researcher/pause", data={"csrf": wrong})
        assert answer.status_code == 403
    assert researcher.client.post("/researcher/pause").status_code == 403
    assert researcher.client.post("/researcher/pause", content=b"a=1&" * 90).status_code == 403
    assert census(store) == before


def test_steps_are_not_taken_by_following_a_link(store: Store, researcher: Researcher) -> None:
    for path in POST:
        assert researcher.client.get(path).status_code == 405


def test_the_cookie_is_only_for_this_page_and_no_script(address: str) -> None:
    cookie = Researcher(address).log_in().headers["set-cookie"]
    assert cookie.startswith("researcher=")
    for part in ("httponly", "samesite=strict", "path=/researcher", f"max-age={LASTS_SECONDS}"):
        assert part in cookie.lower().split("; ")
    assert "secure" not in cookie  # this server speaks http
    client = httpx.Client(base_url=address, headers={"Origin": address})
    behind = client.post(
        "/researcher/login", data={"secret": SECRET}, headers={"X-Forwarded-Proto": "https"}
    )
    assert "secure" in behind.headers["set-cookie"].split("; ")


def test_after_five_wrong_tries_even_the_right_secret_has_to_wait(address: str) -> None:
    researcher = Researcher(address)
    for wrong in ("", "x", SECRET[:-1], SECRET + " ", SECRET.upper()):
        assert researcher.log_in(wrong).status_code == 401
    refused = researcher.log_in()
    assert refused.status_code == 429
    assert "set-cookie" not in refused.headers
    assert 'type="password"' in researcher.page()


def test_a_session_ends_after_eight_hours_and_tries_are_forgotten_after_a_minute() -> None:
    now = 0.0
    sessions = Sessions(SECRET, lambda: now)
    session = sessions.log_in(SECRET)
    assert session is not None
    assert sessions.is_open(session)
    now = LASTS_SECONDS - 1
    assert sessions.is_open(session)
    now += 1
    assert not sessions.is_open(session)
    for _ in range(5):
        assert sessions.log_in("wrong") is None
    with pytest.raises(TooManyTriesError):
        sessions.log_in(SECRET)
    now += 61
    assert sessions.log_in(SECRET)


def test_a_restart_ends_all_sessions(store: Store, researcher: Researcher) -> None:
    cookie = researcher.client.cookies["researcher"]
    assert SECRET not in cookie
    with serving(store) as address:
        again = Researcher(address)
        again.client.cookies.set("researcher", cookie)
        assert 'type="password"' in again.page()
    session = Sessions(SECRET).log_in(SECRET)
    assert session is not None
    assert not Sessions(SECRET).is_open(session)


def test_a_notice_is_told_once_and_fits_into_a_cookie(researcher: Researcher) -> None:
    researcher.send("erase", who="x" * 10_000, scope="erase", sure="yes")
    assert "xxxxx" in researcher.page()
    assert "xxxxx" not in researcher.page()


def test_logging_out_ends_every_session(address: str, researcher: Researcher) -> None:
    other = Researcher(address)
    other.log_in()
    cookie = researcher.client.cookies["researcher"]
    assert researcher.send("logout").status_code == 303
    researcher.client.cookies.set("researcher", cookie)
    assert 'type="password"' in researcher.page()
    assert 'type="password"' in other.page()


def test_only_two_files_are_static(researcher: Researcher) -> None:
    for name in ("researcher.css", "researcher.js"):
        answer = researcher.client.get(f"/researcher/static/{name}")
        assert answer.status_code == 200
        kind = answer.headers["content-type"].partition(";")[0]
        # What a script is called depends on what else this process has loaded.
        assert kind in ("text/css", "text/javascript", "application/javascript")
    for name in ("page.html", "../page.html", "..%2fpage.html", "%2e%2e/%2e%2e/server.py", ""):
        assert researcher.client.get(f"/researcher/static/{name}").status_code == 404


# What it tells


def test_the_page_tells_counts_and_how_many_are_missing(
    store: Store, researcher: Researcher
) -> None:
    name = complete(store)
    store.enrol(person("begins"), share_text=False)
    for text in (researcher.page(), researcher.client.get("/researcher/figures").text):
        assert "hidden until 2 more are complete" in text
        assert name in text
        assert "1 <small>of 3 complete" in text
        for word in ("prefer", "steered", "0.5", "wins"):
            assert word not in text.replace(store.study.title, "")


def test_the_outcome_can_not_be_told_from_what_is_shown(tmp_path: Path) -> None:
    """Everything but ids and times is the same, whoever won."""
    told = []
    for arm in store_arms():
        store = make_store(tmp_path / arm, Clock())
        for number in range(3):
            complete(store, number, lambda trial, arm=arm: choice_for(arm, trial))  # type: ignore[misc]
        with serving(store) as address:
            researcher = Researcher(address)
            researcher.log_in()
            text = researcher.client.get("/researcher/figures").text
        told.append(re.sub(r"[0-9a-f]{16}|<time.*?</time>", "…", text))
    assert told[0] == told[1]


def store_arms() -> tuple[str, str]:
    first, second = published().study.arms
    return first, second


def choice_for(arm: str, trial: Any) -> Any:
    if trial.kind == "attention":
        return "L"
    return "L" if trial.left == arm else "R"


XSS = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(1)>"


def test_what_participants_wrote_is_only_ever_text(store: Store, researcher: Researcher) -> None:
    token = store.enrol(person(), share_text=False).token
    trial = begin(store, token)
    assert trial is not None
    call_off(store, token, trial.trial_id, "failed", XSS)
    trial = made_ready(store, token)
    report(store, token, trial.trial_id, XSS + "{{ 7 * 7 }}")
    researcher.send("erase", who=XSS, scope="erase", sure="yes")
    text = researcher.page()
    assert text.count("&lt;script&gt;alert(1)") == 3  # twice said, once in the notice
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "<svg" not in text
    assert "{{ 7 * 7 }}" in text


def test_hurry_missed_checks_and_canaries_are_told(store: Store, researcher: Researcher) -> None:
    token = store.enrol(person(), share_text=False).token
    while (trial := begin(store, token)) is not None:
        while trial.state == "running":
            trial = add_exchange(store, token, trial.trial_id, answers(trial))
        cast(store, token, trial, "R", decided_ms=400)
    with store.database.transaction() as db:
        for kind in ("canary_equal", "canary_differs", "focus_lost"):
            db.execute(
                "INSERT INTO event(participant_id, server_at, kind) "
                "SELECT participant_id, 't', ? FROM participant", (kind,)
            )  # fmt: skip
    text = " ".join(researcher.page().split())
    for told in (
        "1 missed 1",
        "(1 too many)",
        "1 take less than 1.5 s",
        "1 focus lost",
        '<span class="warn">1 differs</span>',
        '<span class="warn">0.4 s</span>',
    ):
        assert told in text


# What it does


def test_the_stop_works_at_once_and_is_noted(store: Store, researcher: Researcher) -> None:
    token = store.enrol(person(), share_text=False).token
    assert researcher.send("pause").status_code == 303
    assert "Paused." in researcher.page()
    with pytest.raises(StudyError, match="paused"):
        begin(store, token)
    researcher.send("resume")
    assert begin(store, token) is not None
    noted = rows(store, "SELECT actor FROM audit WHERE action = 'pause'")
    assert noted == [("researcher",), ("researcher",)]
    with store.database.snapshot() as db:
        assert not is_paused(db)


def test_a_participant_is_erased_by_receipt_or_left_out_by_id(
    store: Store, researcher: Researcher
) -> None:
    one, two = complete(store, "one"), complete(store, "two")
    receipt = store.receipt(one)
    for wrong in (
        {"who": receipt, "scope": "erase"},
        {"who": receipt, "scope": "everything", "sure": "yes"},
        {"who": receipt[:-1] + "x", "scope": "erase", "sure": "yes"},
        {"who": "nobody", "scope": "erase", "sure": "yes"},
    ):
        researcher.send("erase", **wrong)
    assert flow(store)["erased"] == 0
    researcher.send("erase", who=f" {receipt} ", scope="erase", sure="yes")
    assert f"Participant {one} is erased." in researcher.page()
    researcher.send("erase", who=two, scope="analysis", sure="yes")
    assert (flow(store)["erased"], flow(store)["withdrawn"]) == (1, 1)


def test_an_export_is_noted_and_before_the_end_needs_a_reason(
    store: Store, researcher: Researcher, tmp_path: Path
) -> None:
    complete(store)
    for fields in ({"profile": "full"}, {"profile": "full", "reason": " "}, {"reason": "x"},
                   {"profile": "secret", "reason": "x"}):  # fmt: skip
        assert researcher.send("export", **fields).status_code == 303
    assert "choose what to export" in researcher.page()
    assert rows(store, "SELECT * FROM audit WHERE action IN ('export', 'unblind')") == []
    answer = researcher.send("export", profile="full", reason="a <b>reviewer</b> asked")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        packed.extractall(tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    check_sums(folder)
    assert json.loads((folder / "consort.json").read_text("utf-8"))["complete"] == 1
    assert rows(store, "SELECT actor, object FROM audit WHERE action = 'export'") == [
        ("researcher", folder.name)
    ]
    assert "with 1 complete: a &lt;b&gt;reviewer&lt;/b&gt; asked" in researcher.page()
    complete(store, 1)
    complete(store, 2)
    assert researcher.send("export", profile="public").status_code == 200
