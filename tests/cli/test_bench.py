"""`bench` on the tiny model: real rounds, few of them."""

import importlib.util
import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_model

from saif.engine.local import LocalEngine
from saif.experiments.bench import run as module
from saif.runtime import bench_backends

CASES = [
    "generate, 1 row",
    "saif, 1 row",
    "saif, 2 rows",
    "saif, 3 rows",
    "saif, 2 rows, one steered",
]


@pytest.fixture
def bench(saif: Any, files: Any) -> Any:
    return lambda *more: saif("bench", "--model", files.model, "--rounds", 2, "--steps", 6, *more)


def test_everything_is_in_one_json_document(bench: Any) -> None:
    result = bench("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [case["name"] for case in found["decoding"]] == CASES
    for case in found["decoding"]:
        assert 0 < case["slowest"] <= case["steps_per_second"] <= case["fastest"]
    assert found["decoding"][0]["ratio"] == 1
    assert list(found["costs"]) == ["a second row", "a third row", "steering one of two rows"]
    assert found["bandwidth"]["reached"] > 0
    assert found["bandwidth"]["weights"] > 0
    assert (found["rounds"], found["steps"], found["quantize"]) == (2, 6, "auto")
    assert len(found["first_token_seconds"]) == 5
    assert found["last_turn_to_first"] > 0
    assert found["read_tokens_per_second"] > 0
    assert 0 < found["start_up_seconds"]["loaded"] < found["start_up_seconds"]["first_token"]
    assert found["memory_bytes"]["process_peak"] > found["memory_bytes"]["model"] > 0
    assert set(found["machine"]) == {
        "system", "processor", "threads", "vector_unit", "gpu", "torch"
    }  # fmt: skip


def test_a_person_gets_a_table(bench: Any) -> None:
    result = bench("--no-start-up")
    assert result.exit_code == 0, result.output
    for words in (
        *CASES,
        "1.00×",
        "A third row: ",
        "of weights",
        "First token of turns 1–5",
        "Memory",
    ):
        assert words in result.stdout
    assert "Fresh process" not in result.stdout


def test_a_crowd_is_answered_together(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PEOPLE", (1, 3))
    found = json.loads(bench("--no-start-up", "--crowd", "--json").stdout)["crowd"]
    assert [many["people"] for many in found] == [1, 3]
    for many in found:
        assert many["tokens_per_second"] > 0
        assert many["median_first_token_seconds"] <= many["last_first_token_seconds"]
        assert many["last_first_token_seconds"] <= many["last_answer_seconds"]
    assert "3 at once" in bench("--no-start-up", "--crowd").stdout


def test_too_few_rounds_are_refused(bench: Any) -> None:
    result = bench("--rounds", 0)
    assert result.exit_code == 2
    assert "At least one round" in result.stderr


def test_nothing_runs_beside_a_round_that_is_timed() -> None:
    """A steered reply is prefilled in the background; that has to be over before the next round."""
    engine = LocalEngine(tiny_model(), cache_bytes=1 << 24)
    reprefill, done = engine._reprefill, []

    def slow(row: Any) -> None:
        time.sleep(0.2)
        reprefill(row)
        done.append(row)

    engine._reprefill = slow
    module.Bench(engine, n_steps=4).round()
    assert len(done) == 1


def test_our_cases_take_their_steps_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(tiny_model())
    engine.language_model.end_ids = frozenset()
    bench, rows = module.Bench(engine, n_steps=5), []
    advance = engine.language_model.decode_step

    def counted(batch: Any, token_ids: Any) -> Any:
        rows.append(len(batch.rows))
        return advance(batch, token_ids)

    monkeypatch.setattr(engine.language_model, "decode_step", counted)
    found = bench.round()
    assert rows == [2, 3, 2, 1, 1, 2, 3, 2] * 2  # there and back
    assert {name: len(found[name]) for name in module.OURS} == dict.fromkeys(module.OURS, 4)


def test_a_step_that_was_held_up_does_not_count() -> None:
    """Neither in a rate nor in what a row costs."""
    one = {"saif, 1 row": [1.0, 1.0, 9.0, 1.0, 1.0], "saif, 2 rows": [1.2, 1.2, 1.2, 9.0, 1.2]}
    rounds = [{module.BASELINE: [2.0, 2.0, 30.0], **one}] * 3
    assert module._summary("saif, 1 row", rounds)["ratio"] == 2
    assert module._cost("saif, 2 rows", "saif, 1 row", rounds) == pytest.approx(0.2)


@pytest.mark.parametrize("package", ["llama_cpp", "xllamacpp"])
def test_llama_cpp_runs_the_same_file_where_it_is_installed(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """With a stand-in for its package."""
    opened = []

    class Llama:
        def __init__(self, path: str, **options: object) -> None:
            opened.append(path)

        def generate(self, tokens: list[int], **options: object) -> Any:
            while True:
                time.sleep(0.001)
                yield 65

    class Server:
        def __init__(self, params: Any) -> None:
            opened.append(params.model.path)

        def handle_completions(self, asked: dict[str, Any], give: Any) -> None:
            for _ in range(asked["n_predict"] + 1):
                time.sleep(0.001)
                assert not give({})

    def params() -> SimpleNamespace:
        return SimpleNamespace(
            model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace()
        )

    for name, content in {
        "llama_cpp": {"Llama": Llama},
        "xllamacpp": {"Server": Server, "CommonParams": params},
    }.items():
        fake = SimpleNamespace(**content, __spec__=object()) if name == package else None
        monkeypatch.setitem(sys.modules, name, fake)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        bench_backends.importlib.util,
        "find_spec",
        lambda name: object() if name == package else None if "llama" in name else find(name),
    )
    gguf = tmp_path / "model.gguf"
    monkeypatch.setattr(module.embedded, "gguf_file", lambda: gguf)
    engine = LocalEngine(tiny_model())
    assert module.LLAMA_CPP not in module.Bench(engine, n_steps=4).round()
    engine.language_model.model_id = module.embedded.MODEL_ID
    seconds = module.Bench(engine, n_steps=4).round()[module.LLAMA_CPP]
    assert opened == [str(gguf)]
    assert len(seconds) == 3
    assert min(seconds) >= 0.001
