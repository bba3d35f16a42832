"""Streams under trouble: visitors who leave, answers that fail, crowds, and votes beside them."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from made_up_participants import rows
from running_study import FREE, Running, Visitor, served

from saif.errors import InputError, ModelError
from saif.study.participation.answers import AnswerPair
from saif.study.server import streaming
from saif.study.store.database import NotSavedError
from saif.study.store.trials import Exchange


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with served(tmp_path, generation__max_new_tokens=40) as running:
        yield running


def begun(running: Running, key: str = "visitor-1") -> tuple[Visitor, str]:
    visitor = running.visitor(key)
    visitor.agree()
    trial_id: str = visitor.ask("begin")["trial"]["id"]
    return visitor, trial_id


def eventually(condition: object, seconds: float = 10) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_who_leaves_ends_the_computation_and_gets_the_trial_anew(running: Running) -> None:
    visitor, trial = begun(running)
    running.engine.seconds_per_step = 0.1
    headers = {"Authorization": f"Bearer {visitor.token}"}
    body = {"trial": trial, "k": 0}
    with httpx.stream("POST", f"{running.page}/turn", json=body, headers=headers) as reply:
        next(reply.iter_lines())
    left_at = running.engine.steps
    assert eventually(lambda: running.engine.running == 0)
    assert running.engine.steps <= left_at + 3
    assert running.engine.cancelled()
    running.engine.seconds_per_step = 0
    visitor.enter()
    again, vote_id = visitor.ready()
    assert again["id"] == trial[:-1] + "2"
    visitor.ask("vote", vote_id=vote_id, choice="L")
    assert rows(running.store, "SELECT void_reason FROM trial WHERE state = 'void'") == [
        ("interrupted",)
    ]


@pytest.mark.parametrize(
    ("error", "told", "is_a_bug"),
    [
        (ZeroDivisionError("a bug"), "ZeroDivisionError", True),
        (ModelError("No memory.", hint="Ask for less."), "No memory. Ask for less.", False),
        (InputError("A fixed prompt is too long."), "A fixed prompt is too long.", False),
    ],
)
def test_an_answer_that_fails_voids_both_and_the_trial_is_issued_again(
    running: Running, caplog: Any, error: Exception, told: str, is_a_bug: bool
) -> None:
    visitor, trial = begun(running)
    running.engine.error = error
    running.engine.fail_at = 3
    last = visitor.turn(trial)[-1]
    assert "neither counts" in last["failed"]
    running.engine.fail_at = None
    again, _ = visitor.ready()
    assert again["id"] != trial
    assert rows(running.store, "SELECT void_reason FROM trial WHERE state = 'void'") == [
        ("failed",)
    ]
    assert rows(running.store, "SELECT COUNT(*) FROM turn WHERE trial_id = ?", trial) == [(0,)]
    detail = rows(running.store, "SELECT void_detail FROM trial WHERE state = 'void'")
    assert detail == [(told,)]
    assert ("answer failed" in caplog.text) == is_a_bug


def test_a_failure_is_told_also_where_it_can_not_be_noted(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise NotSavedError("The database is locked.")

    monkeypatch.setattr(streaming, "call_off", locked)
    visitor, trial = begun(running)
    running.engine.fail_at = 3
    assert "neither counts" in visitor.turn(trial)[-1]["failed"]
    running.engine.fail_at = None
    visitor.ready()


def test_a_tab_that_another_took_over_from_is_told_so_at_the_end(running: Running) -> None:
    visitor, trial = begun(running)
    running.engine.seconds_per_step = 0.02
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(visitor.turn, trial)
        assert eventually(lambda: running.engine.running == 1)
        running.visitor().enter()
        assert "another tab" in first.result()[-1]["failed"]


@pytest.mark.parametrize(("per_second", "at_most"), [(8, 20), (1000, 40)])
def test_answers_come_in_few_looks_with_something_in_each(
    running: Running, monkeypatch: pytest.MonkeyPatch, per_second: int, at_most: int
) -> None:
    monkeypatch.setattr(streaming, "UPDATES_PER_SECOND", per_second)
    visitor, trial = begun(running)
    running.engine.seconds_per_step = 0.01
    *looks, _ = visitor.turn(trial)
    assert len(looks) <= at_most  # of forty steps
    assert all(look["L"] or look["R"] for look in looks)
    shown = [("".join(look[side] for look in looks),) for side in "LR"]
    assert rows(running.store, "SELECT output_text FROM generation ORDER BY side") == shown
    ((waited, took),) = rows(running.store, "SELECT DISTINCT ttft_ms, total_ms FROM generation")
    assert waited < took / 2


def test_closing_ends_what_is_being_made(running: Running, caplog: Any) -> None:
    visitor, trial = begun(running)
    running.engine.seconds_per_step = 0.2
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(visitor.turn, trial)
        assert eventually(lambda: running.engine.steps > 0)
        running.context.streams.close()
        assert "failed" in stream.result(3)[-1]
    assert "answer failed" not in caplog.text
    assert rows(running.store, "SELECT * FROM trial WHERE state = 'void'") == []
    names = lambda: [thread.name for thread in threading.enumerate()]  # noqa: E731
    assert eventually(lambda: not any(name.startswith("saif-study") for name in names()))


def test_a_step_that_hangs_is_a_failure(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "STEP_SECONDS", 0.2)
    visitor, trial = begun(running)
    running.engine.seconds_per_step = 0.6
    assert "neither counts" in visitor.turn(trial)[-1]["failed"]
    running.engine.seconds_per_step = 0
    monkeypatch.setattr(streaming, "STEP_SECONDS", 30)
    visitor.ready()


def test_after_many_attempts_somebody_has_to_look(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MAX_ATTEMPTS", 2)
    visitor, trial = begun(running)
    running.engine.fail_at = 0
    for _ in range(2):
        assert "failed" in visitor.turn(trial)[-1]
        trial = visitor.ask("begin")["trial"]["id"]
    reply = visitor.send("turn", trial=trial, k=0)
    assert reply.status_code == 409
    assert "contact" in reply.json()["hint"]


def test_another_tab_ends_this_tabs_stream(running: Running) -> None:
    visitor, trial = begun(running)
    running.engine.seconds_per_step = 0.05
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(visitor.turn, trial)
        assert eventually(lambda: running.engine.running == 1)
        other = running.visitor()
        other.enter()
        running.engine.seconds_per_step = 0
        other.ready()
        assert "another tab" in first.result()[-1]["failed"]
    states = "SELECT state, COUNT(*) FROM trial WHERE position = 1 GROUP BY state ORDER BY state"
    assert rows(running.store, states) == [("ready", 1), ("void", 1)]


def test_every_tab_ends_the_one_before_it(running: Running) -> None:
    running.engine.seconds_per_step = 0.2
    streams = []
    with ThreadPoolExecutor(3) as pool:
        for number in range(3):
            visitor, trial = begun(running) if not number else returned(running)
            before = running.engine.steps
            streams.append(pool.submit(visitor.turn, trial))
            assert eventually(lambda before=before: running.engine.steps > before)
            for earlier in streams[:-1]:
                assert "another tab" in earlier.result(3)[-1]["failed"]
        running.engine.seconds_per_step = 0
        assert streams[-1].result()[-1]["done"]
    assert eventually(lambda: running.context.streams._current == {})


def returned(running: Running) -> tuple[Visitor, str]:
    visitor = running.visitor()
    visitor.enter()
    return visitor, visitor.ask("begin")["trial"]["id"]


@pytest.mark.serial
def test_votes_are_stored_at_once_while_all_streams_are_taken(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    voter, _ = begun(running, "voter")
    _, vote_id = voter.ready()
    visitors = [begun(running, f"visitor-{i}") for i in range(streaming.MAX_STREAMS + 2)]
    running.engine.seconds_per_step = 0.2
    with ThreadPoolExecutor(len(visitors)) as pool:
        streams = [pool.submit(visitor.turn, trial) for visitor, trial in visitors]
        assert eventually(lambda: running.engine.running == streaming.MAX_STREAMS, 30)
        began = time.monotonic()
        voter.ask("vote", vote_id=vote_id, choice="L")
        took = time.monotonic() - began
        time.sleep(1.2)  # whoever waits for a stream is told so each second
        running.engine.seconds_per_step = 0
        lines = [stream.result() for stream in streams]
    assert all(found[-1].get("done") for found in lines)
    assert sum({"waiting": True} in found for found in lines) == 2
    assert took < 1.0


def test_a_retest_looks_like_any_comparison_and_shows_the_old_answers(tmp_path: Path) -> None:
    with served(tmp_path, trials__retest=1, trials__practice=0) as running:
        visitor = running.visitor()
        visitor.agree()
        shown: list[tuple[str, str]] = []
        forms = []
        for _ in range(4):
            trial = visitor.ask("begin")["trial"]
            if "check" in trial:
                vote_id = trial["vote_id"]
            else:
                lines = visitor.turn(trial["id"])
                sides = [line for line in lines if "L" in line]
                shown.append(tuple("".join(line[side] for line in sides) for side in "LR"))  # type: ignore[arg-type]
                forms.append((set(trial), set(lines[0]), set(lines[-1]), trial["turns"]))
                vote_id = lines[-1]["vote_id"]
            visitor.ask("vote", vote_id=vote_id, choice="L")
        assert shown[2][::-1] in shown[:2]
        assert forms[0] == forms[1] == forms[2]
        assert len(running.engine.asked) == 2
        for k in (0, 1, 5):  # it was voted on
            assert visitor.send("turn", trial=trial["id"], k=k).status_code == 409


def test_a_retest_says_the_old_messages_and_no_more(tmp_path: Path) -> None:
    with served(
        tmp_path, prompts=FREE, trials__turns=2, trials__retest=1, trials__practice=0, attention=[]
    ) as running:
        visitor = running.visitor()
        visitor.agree()
        for _ in range(2):
            trial = visitor.ask("begin")["trial"]
            for k in range(2):
                last = visitor.turn(trial["id"], k, f"message {k}")[-1]
            visitor.ask("vote", vote_id=last["vote_id"], choice="L")
        trial = visitor.ask("begin")["trial"]
        assert trial["message"] == "message 0"
        assert visitor.turn(trial["id"], 0)[-1] == {"done": True, "message": "message 1"}
        assert visitor.send("turn", trial=trial["id"], k=2).status_code == 409
        assert "vote_id" in visitor.turn(trial["id"], 1)[-1]


@pytest.mark.parametrize("fate", ["equal", "differs", "failed"])
def test_canaries_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str) -> None:
    def solo(_: AnswerPair) -> bool:
        if fate == "failed":
            raise ModelError("No memory.")
        return fate == "equal"

    if fate != "equal":
        monkeypatch.setattr(AnswerPair, "is_row_independent", property(solo))
    monkeypatch.setattr(streaming, "CANARY_EVERY", 2)
    with served(tmp_path, attention=[]) as running:
        visitor, _ = begun(running)
        for _ in range(3):
            visitor.vote("skip")
        noted = "SELECT event.kind, position FROM event JOIN trial USING(trial_id)"
        assert eventually(lambda: rows(running.store, noted) == [(f"canary_{fate}", 2)])


@pytest.mark.parametrize(("ms", "looks"), [(0, 1), (1000, 8), (10**6, 240)])
def test_a_retest_takes_as_long_as_its_answers_did(
    monkeypatch: pytest.MonkeyPatch, ms: int, looks: int
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(streaming.asyncio, "sleep", sleep)
    told = Exchange("A message.", "the left answer", "right", ms)

    async def again() -> list[dict[str, Any]]:
        return [line async for line in streaming._replayed(told)]

    lines = asyncio.run(again())
    assert len(lines) == looks
    assert slept == [1 / 8] * looks
    assert ["".join(line[side] for line in lines) for side in "LR"] == [told.left, told.right]


def test_many_at_once_get_the_answers_they_would_get_alone(tmp_path: Path) -> None:
    with served(
        tmp_path / "a", generation__max_new_tokens=12, generation__temperature=1.0
    ) as alone:
        visitors = [alone.visitor(f"visitor-{i}") for i in range(8)]
        for visitor in visitors:
            visitor.agree()
            visitor.walk()
        wanted = texts(alone)
    with served(
        tmp_path / "b", shared=True, generation__max_new_tokens=12, generation__temperature=1.0
    ) as together:
        crowd = [together.visitor(f"visitor-{i}") for i in range(8)]
        for visitor in crowd:  # in the same order, so that they get the same plans
            visitor.agree()
        threads = [threading.Thread(target=visitor.walk) for visitor in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert texts(together) == wanted


def texts(running: Running) -> list[tuple[object, ...]]:
    return rows(
        running.store,
        "SELECT plan_seed, position, attempt, arm, output_text "
        "FROM generation JOIN turn USING(turn_id) JOIN trial USING(trial_id) "
        "JOIN participant USING(participant_id) ORDER BY 1, 2, 3, 4",
    )
