"""Continuous batching: each of many callers gets what it would have got alone."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime.families import family_model
from tiny import tiny_model, tiny_steering

from saif.decoding import Sampling, Step, decode
from saif.errors import SteeringError
from saif.runtime.batch import Batch, Row
from saif.runtime.language_model import LanguageModel
from saif.scheduler import CHUNK_TOKENS, Scheduler

ROOT = Path(__file__).parents[1]


@pytest.fixture
def model() -> LanguageModel:
    return tiny_model()


def rows(model: LanguageModel, number: int, *, tokens: int = 12) -> list[Row]:
    """A steered and an unsteered row; every number has another length, noise and steering."""
    prompt = [*model.encode_text("The river is long. " * (1 + number % 4)), 5 + number]
    sampling = Sampling(
        max_new_tokens=tokens + number % 5, temperature=0.8 if number % 2 else 0.0, seed=number
    )
    steering = tiny_steering(layer=1 + number % 2, seed=number, span="response")
    return [
        Row(prompt, sampling=sampling),
        Row(prompt, sampling=sampling, steering=steering),
    ]


def summary(steps: Sequence[Step]) -> dict[int, tuple[list[int | None], str, int, Any]]:
    """row -> its tokens, text, steered positions and how it ended."""
    found: dict[int, tuple[list[int | None], str, int, Any]] = {}
    for step in steps:
        for row in step:
            tokens, text, steered, _ = found.get(row.row, ([], "", 0, None))
            found[row.row] = (
                [*tokens, row.token_id],
                text + row.text,
                steered + row.steered,
                row.stop,
            )
    return found


def alone(model: LanguageModel, asked: Sequence[Row]) -> dict[int, Any]:
    return summary(list(decode(model, asked)))


def idle() -> bool:
    deadline = time.monotonic() + 5
    while any(thread.name == "saif-decode" for thread in threading.enumerate()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Passes:
    """Counts a model's steps, and can slow them down or fail them."""

    def __init__(self, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.seconds = 0.0
        self.fails: Callable[[Batch], bool] = lambda batch: False
        self._advance = model.decode_step
        monkeypatch.setattr(model, "decode_step", self._count)

    def _count(self, batch: Batch, token_ids: Sequence[int]) -> Any:
        self.rows.append(len(batch.rows))
        time.sleep(self.seconds)
        result = self._advance(batch, token_ids)
        if self.fails(batch):  # found out once the step is run, as by the real check
            raise SteeringError("This row is not steered as asked.")
        return result


@pytest.fixture
def passes(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(model, monkeypatch)


def test_one_caller_gets_what_decode_gives(model: LanguageModel) -> None:
    asked = rows(model, 1)
    steps = list(Scheduler(model).stream(asked))
    assert steps == list(decode(model, asked))
    assert idle()


def test_callers_who_join_and_leave_get_what_they_would_have_got_alone(
    model: LanguageModel, passes: Passes
) -> None:
    asked = [rows(model, number) for number in range(8)]
    wanted = [alone(model, each) for each in asked]
    n_alone, passes.rows = len(passes.rows), []
    passes.seconds = 0.005
    shared = Scheduler(model)

    def call(number: int) -> dict[int, Any]:
        time.sleep(0.012 * number)  # while the ones before are in the middle of their replies
        return summary(list(shared.stream(asked[number])))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == wanted
    assert max(passes.rows) > 4  # they did run together
    assert len(passes.rows) < n_alone
    assert idle()


def test_a_caller_who_stops_or_leaves_changes_nothing_for_the_others(
    model: LanguageModel, passes: Passes
) -> None:
    asked = [rows(model, number, tokens=30) for number in range(3)]
    wanted = alone(model, asked[0])
    passes.seconds = 0.005
    shared, stop = Scheduler(model), threading.Event()
    with ThreadPoolExecutor(3) as pool:
        stays = pool.submit(lambda: summary(list(shared.stream(asked[0]))))
        stops = pool.submit(lambda: summary(list(shared.stream(asked[1], cancelled=stop.is_set))))
        leaving = shared.stream(asked[2])
        for _ in range(3):
            next(leaving)
        leaving.close()
        stop.set()
        assert {end for *_, end in stops.result(10).values()} == {"cancelled"}
        assert stays.result(10) == wanted
    assert passes.rows[-1] <= 2  # the others' rows are gone
    assert idle()


def test_a_row_that_fails_ends_its_own_request_and_no_other(
    model: LanguageModel, passes: Passes
) -> None:
    asked = [rows(model, number, tokens=20) for number in range(3)]
    wanted = [alone(model, each) for each in asked]
    passes.seconds = 0.005
    bad = asked[1][1].steering
    passes.fails = lambda batch: any(
        row.steering is bad and len(row.token_ids) > row.prompt_length + 6 for row in batch.rows
    )
    shared = Scheduler(model)

    def call(number: int) -> Any:
        try:
            return summary(list(shared.stream(asked[number])))
        except SteeringError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        got = list(pool.map(call, range(3)))
    # What was counted as steered before the failure isn't counted again after it.
    assert (got[0], got[2]) == (wanted[0], wanted[2])
    assert got[1] == "This row is not steered as asked."
    assert idle()
    assert summary(list(shared.stream(asked[0]))) == wanted[0]


def test_a_request_that_cannot_begin_is_refused_and_the_next_one_works(
    model: LanguageModel,
) -> None:
    good = rows(model, 0)
    bad = [replace(good[1], steering=tiny_steering(layer=99))]
    shared = Scheduler(model)
    with pytest.raises(SteeringError, match="layer 99"):
        list(shared.stream(bad))
    assert summary(list(shared.stream(good))) == alone(model, good)


def test_prompts_that_come_together_are_prefilled_together_and_a_bad_one_refused_alone(
    model: LanguageModel, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    prefill = model.prefill

    def count(rows: Sequence[Row], **more: Any) -> Any:
        started.append(len(rows))
        return prefill(rows, **more)

    monkeypatch.setattr(model, "prefill", count)
    asked = [rows(model, number) for number in range(4)]
    bad = replace(asked[1][1], steering=tiny_steering(layer=99))
    wanted = [alone(model, each) for each in asked]
    started.clear()
    passes.rows.clear()
    passes.seconds = 0.3  # long enough for all to arrive during the first one's first step
    shared = Scheduler(model)

    def call(request: Sequence[Row]) -> Any:
        try:
            return summary(list(shared.stream(request)))
        except SteeringError as error:
            return str(error)

    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(call, asked[0])
        while not passes.rows:
            time.sleep(0.001)
        rest = [pool.submit(call, request) for request in (asked[1], [bad], asked[2], asked[3])]
        passes.seconds = 0.0
        got = [future.result(20) for future in (first, *rest)]
    assert [got[0], got[1], got[3], got[4]] == wanted
    assert "layer 99" in got[2]
    assert started[:2] == [2, 7]  # all together
    assert sorted(started[2:]) == [1, 2, 2, 2]  # then each alone, because one was bad


def test_closing_ends_every_reply_at_its_next_step(model: LanguageModel, passes: Passes) -> None:
    passes.seconds = 0.02
    shared = Scheduler(model)
    steps = shared.stream(rows(model, 0, tokens=200))
    next(steps)
    shared.close()
    assert {row.stop for row in list(steps)[-1]} == {"cancelled"}
    assert idle()


def test_a_process_that_ends_in_the_middle_of_a_reply_ends_well() -> None:
    code = """
from tiny import tiny_model
from saif.decoding import Row, Sampling
from saif.scheduler import Scheduler
model = tiny_model()
row = Row([5, 6, 7], sampling=Sampling(max_new_tokens=512))
steps = Scheduler(model).stream([row])
next(steps)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bug_in_one_step_leaves_nobody_waiting(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Scheduler(model)
    with monkeypatch.context() as broken:
        broken.setattr(Batch, "keep", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(shared.stream(rows(model, 0)))
    assert summary(list(shared.stream(rows(model, 0)))) == alone(model, rows(model, 0))


def test_requests_beyond_the_most_rows_are_admitted_later(
    model: LanguageModel, passes: Passes
) -> None:
    passes.seconds = 0.002
    shared = Scheduler(model, max_rows=4)
    asked = [rows(model, number) for number in range(5)]
    wanted = [alone(model, each) for each in asked]
    passes.rows = []
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(lambda each: summary(list(shared.stream(each))), asked)) == wanted
    assert max(passes.rows) == 4
    # More rows than there is ever room for still get their turn, by themselves.
    many = [row for each in asked for row in each]
    assert len(summary(list(shared.stream(many)))) == len(many)


def test_rows_of_a_sliding_window_are_not_merged_but_take_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = family_model("gemma2")
    assert not model.rows_can_merge
    asked = [[replace(row, steering=None) for row in rows(model, n)] for n in range(3)]
    wanted = [alone(model, each) for each in asked]
    passes = Passes(model, monkeypatch)
    passes.seconds = 0.01
    shared = Scheduler(model)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda each: summary(list(shared.stream(each))), asked)) == wanted
    assert max(passes.rows) == 2


def long_rows(model: LanguageModel) -> list[Row]:
    """A long conversation in two columns, with nothing to share where the second is steered."""
    prompt = model.encode_text("The river is long. " * 30)
    steering = tiny_steering(layer=1, span="all")
    sampling = Sampling(max_new_tokens=8)
    return [
        Row(prompt, sampling=sampling),
        Row(prompt[7:], sampling=sampling, steering=steering),
    ]


@pytest.mark.parametrize("most", [1, 37, 128, 10_000])
@pytest.mark.parametrize("span", ["response", "all"])
def test_a_prefill_in_chunks_changes_nothing(model: LanguageModel, most: int, span: Any) -> None:
    plain, steered = long_rows(model)
    steered = replace(steered, steering=tiny_steering(layer=1, span=span))
    for asked in (
        [plain],
        [plain, steered],
        [plain, plain, replace(plain, steering=steered.steering)],
    ):
        batch, expected = model.prefill(asked)
        chunks, n_parts = model.prefill_in_chunks(asked, most), 0
        while True:
            n_parts += 1
            try:
                next(chunks)
            except StopIteration as done:
                in_parts, found = done.value
                break
        assert found.steered == expected.steered
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-4)
        assert torch.equal(in_parts.attention_mask, batch.attention_mask)
        tokens = [65] * len(asked)
        torch.testing.assert_close(
            model.decode_step(in_parts, tokens).logits,
            model.decode_step(batch, tokens).logits,
            atol=1e-4,
            rtol=1e-4,
        )
        assert n_parts > 4 if most < 100 else n_parts < 15


def test_a_long_prompt_holds_nobody_up(
    model: LanguageModel, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    forward = model._forward

    def counted(input_ids: torch.Tensor, *rest: Any, **more: Any) -> Any:
        if input_ids.shape[1] > 1:
            read.append(input_ids.numel())
            passes.rows.append(0)  # among the steps, to see that they take turns
        return forward(input_ids, *rest, **more)

    asked, late = rows(model, 0, tokens=60), long_rows(model)
    wanted = [alone(model, asked), alone(model, late)]
    monkeypatch.setattr(model, "_forward", counted)
    passes.rows.clear()
    shared = Scheduler(model)
    first = shared.stream(asked)
    begun = [next(first)]
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(lambda: summary(list(shared.stream(late))))
        assert summary([*begun, *first]) == wanted[0]
        assert second.result(20) == wanted[1]
    assert len(read) > 5
    assert max(read) <= CHUNK_TOKENS
    begins = passes.rows.index(0, 2)
    in_turn = passes.rows[begins : begins + 8]
    assert in_turn == [0, 2] * 4, passes.rows


def test_a_long_prompt_that_nobody_waits_for_is_not_prefilled_to_its_end(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, stop, parts = Scheduler(model), threading.Event(), 0
    forward = model._forward

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal parts
        parts += 1
        stop.set()
        return forward(*given, **more)

    monkeypatch.setattr(model, "_forward", counted)
    steps = list(shared.stream(long_rows(model), cancelled=stop.is_set))
    assert [row.stop for row in steps[-1]] == ["cancelled", "cancelled"]
    assert parts == 1
    assert idle()


def test_a_long_prompt_that_fails_is_refused_and_the_next_one_works(model: LanguageModel) -> None:
    shared, asked = Scheduler(model), long_rows(model)
    with pytest.raises(SteeringError, match="layer 99"):
        list(shared.stream([replace(asked[0], steering=tiny_steering(layer=99))]))
    assert summary(list(shared.stream(asked))) == alone(model, asked)
    assert idle()


def test_what_has_to_be_prefilled_as_a_whole_is() -> None:
    """A sliding window counts columns, so its rows are prefilled at once however long they are."""
    model = family_model("gemma2")
    prompt = model.encode_text("The river is long. " * 12)
    asked = [Row(prompt, sampling=Sampling(max_new_tokens=6))]
    assert list(model.prefill_in_chunks(asked, 16)) in ([], [None])
    assert summary(list(Scheduler(model).stream(asked))) == alone(model, asked)
