"""How fast a model answers on this machine: everything in one process, turn by turn, so that what
else the machine does falls on all alike. Only ratios mean something beyond it."""

import itertools
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from saif.core.steering import Steering
from saif.engine import LocalEngine, Message, Request
from saif.errors import InputError, ModelError
from saif.experiments.crowd import measure_crowd
from saif.experiments.progress import track
from saif.generation import Sampling, Step
from saif.runtime import embedded
from saif.runtime.load import QuantizeOrAuto
from saif.runtime.rivals import LlamaCpp, generate_times, has_llama_cpp

BASELINE = "generate, 1 row"
_PROMPT = "Write a long story about an old house by the sea and the people who lived in it."
_TURNS = 5
_PASSAGE = "The sea was calm that day, and the boats lay still beside the old stone wall. "
_START = """
import sys, time
started = time.perf_counter()
from saif.engine import LocalEngine, Message, Request
from saif.runtime.load import load_model
engine = LocalEngine(load_model(sys.argv[1], quantize=sys.argv[2]))
loaded = time.perf_counter()
next(iter(engine.stream([Request(messages=(Message("user", "Hello!"),))])))
print(loaded - started, time.perf_counter() - started)
"""


class Bench:
    """The cases for one engine; the baseline is the same model as transformers runs it."""

    def __init__(self, engine: LocalEngine, *, n_steps: int) -> None:
        self._engine = engine
        self._model = engine.steerable
        self._n = n_steps
        self._sampling = Sampling(max_new_tokens=n_steps)
        self.push = _some_push(engine)
        self._llama: LlamaCpp | None = None
        gguf = embedded.gguf_file() if self._model.model_id == embedded.MODEL_ID else None
        if gguf is not None and has_llama_cpp():
            self._llama = LlamaCpp(gguf)

    def cases(self) -> dict[str, Callable[[], float]]:
        """name -> one round of it, which gives steps per second."""
        found: dict[str, Callable[[], float]] = {BASELINE: self._generate}
        for n_rows in (1, 2, 3):
            found[f"saif, {n_rows} row{'s' * (n_rows > 1)}"] = self._rows(n_rows, None)
        found["saif, 2 rows, one steered"] = self._rows(2, self.push)
        if self._llama is not None:
            found["llama.cpp, 1 row"] = self._in_llama_cpp
        return found

    def _generate(self) -> float:
        return _rate(generate_times(self._model, self._prompt(), self._n))

    def _in_llama_cpp(self) -> float:
        assert self._llama is not None
        return _rate(self._llama.times(self._prompt(), self._n))

    def _rows(self, n_rows: int, push: Steering | None) -> Callable[[], float]:
        def run() -> float:
            steps, times = self._timed([push if row == 1 else None for row in range(n_rows)])
            # A row may end before its time; only whole batches count.
            return _rate(times[: sum(len(step) == n_rows for step in steps)])

        return run

    def _timed(self, pushes: Sequence[Steering | None]) -> tuple[list[Step], list[float]]:
        message = (Message("user", _PROMPT),)
        requests = [
            Request(messages=message, steering=push, sampling=self._sampling) for push in pushes
        ]
        steps, times = [], []
        for step in self._engine.stream(requests):
            times.append(time.perf_counter())
            steps.append(step)
        self._engine.settled()  # what goes on in the background is no part of the next case
        return steps, times

    def _prompt(self) -> list[int]:
        return self._model.render([{"role": "user", "content": _PROMPT}])

    def first_tokens(self) -> list[float]:
        """Seconds to the first token of each turn of a conversation in two columns."""
        columns: list[tuple[Message, ...]] = [(), ()]
        found = []
        self._engine.forget()
        for turn in range(_TURNS):
            asked = Message("user", f"{_PROMPT} This is chapter {turn + 1}.")
            columns = [(*messages, asked) for messages in columns]
            requests = [
                Request(messages=messages, steering=push, sampling=self._sampling)
                for messages, push in zip(columns, (None, self.push), strict=True)
            ]
            started = time.perf_counter()
            texts = ["", ""]
            for number, step in enumerate(self._engine.stream(requests)):
                if number == 0:
                    found.append(time.perf_counter() - started)
                for row in step:
                    texts[row.row] += row.text
            self._engine.settled()
            columns = [
                (*messages, Message("assistant", text))
                for messages, text in zip(columns, texts, strict=True)
            ]
        return found

    def read_seconds(self) -> float:
        """Seconds to read some hundred tokens of text as one row."""
        ids = self._model.encode_text(_PASSAGE * 8)
        started = time.perf_counter()
        self._model.residuals([ids], [])
        return (time.perf_counter() - started) / len(ids)


def run_bench(
    engine: LocalEngine,
    quantize: QuantizeOrAuto,
    *,
    rounds: int,
    n_steps: int,
    start_up: str = "",
    crowd: Sequence[int] = (),
) -> dict[str, Any]:
    """Everything measured, ready for JSON. start_up: the model's name, to also start a fresh
    process that loads it. crowd: how many people to answer at once."""
    if rounds < 1 or n_steps < 4:
        raise InputError("At least one round of four steps is needed.")
    bench = Bench(engine, n_steps=n_steps)
    cases = bench.cases()
    for case in cases.values():  # warm-up
        case()
    rates: dict[str, list[float]] = {name: [] for name in cases}
    turns, reading = [], []
    for _ in track(range(rounds), "Rounds"):
        for name, case in cases.items():
            rates[name].append(case())
        turns.append(bench.first_tokens())
        reading.append(bench.read_seconds())
    first_tokens = [statistics.median(turn) for turn in zip(*turns, strict=True)]
    return {
        "model": engine.model.id,
        "quantize": quantize,
        "about": engine.about,
        "machine": machine(),
        "rounds": rounds,
        "steps": n_steps,
        "decoding": [_summary(name, rates) for name in cases],
        "first_token_seconds": first_tokens,
        "last_turn_to_first": statistics.median(turn[-1] / turn[0] for turn in turns),
        "read_tokens_per_second": 1 / statistics.median(reading),
        "memory_bytes": {"model": engine.steerable.memory, "process_peak": _peak_memory()},
        "crowd": measure_crowd(engine, bench.push, sizes=crowd, n_steps=n_steps) if crowd else [],
        "start_up_seconds": _start_up(start_up, quantize) if start_up else None,
    }


def machine() -> dict[str, Any]:
    """What ran it, without a name that would tell whose machine it is."""
    return {
        "system": platform.system(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def _summary(name: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    own = rates[name]
    # Each round against the baseline of that round.
    ratios = [mine / theirs for mine, theirs in zip(own, rates[BASELINE], strict=True)]
    return {
        "name": name,
        "steps_per_second": statistics.median(own),
        "slowest": min(own),
        "fastest": max(own),
        "ratio": statistics.median(ratios),
    }


def _rate(times: Sequence[float]) -> float:
    """Steps per second, by the median step: one that was held up says nothing."""
    steps = [after - before for before, after in itertools.pairwise(times)]
    if not steps:
        raise ModelError("The model ended its reply before two tokens, so nothing can be timed.")
    return 1 / statistics.median(steps)


def _some_push(engine: LocalEngine) -> Steering:
    """A random push at two thirds of the depth, small enough that the text stays text."""
    model = engine.steerable
    layer = 2 * model.n_layers // 3
    ids = model.render([{"role": "user", "content": _PROMPT}])
    residuals, _ = model.residuals([ids], [layer])
    size = 0.1 * float(residuals[layer][0, 1:].float().norm(dim=-1).mean())
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    return Steering({layer: direction * (size / float(direction.norm()))}, "response", {layer: 0.1})


def _start_up(name: str, quantize: str) -> dict[str, float]:
    """Seconds in a fresh process until the model is loaded, and until its first token."""
    done = subprocess.run(
        [sys.executable, "-c", _START, name, quantize], capture_output=True, text=True, check=True
    )
    loaded, first = map(float, done.stdout.split()[-2:])
    return {"loaded": loaded, "first_token": first}


def _peak_memory() -> int | None:
    """Bytes; None on Windows, which doesn't say."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
