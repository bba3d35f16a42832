"""How fast a model answers on this machine: everything in one process, interleaved, so that what
else the machine does falls on all alike. Only ratios mean something beyond it."""

import itertools
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from saif.core.steering import Steering
from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Message, Request
from saif.errors import InputError, ModelError
from saif.progress import track
from saif.runtime import embedded
from saif.runtime.bench_backends import generate_times, llama_cpp
from saif.runtime.load import QuantizeOrAuto

BASELINE, LLAMA_CPP = "generate, 1 row", "llama.cpp, 1 row"
_ONE, _TWO, _STEERED = "saif, 1 row", "saif, 2 rows", "saif, 2 rows, one steered"
OURS = {
    _ONE: (False,),
    _TWO: (False, False),
    "saif, 3 rows": (False, False, False),
    _STEERED: (False, True),
}
"""case -> which of its rows are steered."""

COSTS = {
    "a second row": (_TWO, _ONE),
    "a third row": ("saif, 3 rows", _ONE),
    "steering one of two rows": (_STEERED, _TWO),
}
"""what costs -> the case with it and the one without."""

PEOPLE = (1, 4, 16, 64)
"""How many write at once, where that is asked for."""

_READ_BYTES = 200_000_000
_QUESTIONS = (
    "Write a long story about an old house by the sea.",
    "Tell me everything you know about bread.",
    "What should I see in a big city on a rainy day?",
    "Describe a long walk through a forest in the autumn.",
)
_PROMPT = "Write a long story about an old house by the sea and the people who lived in it."
_START = """
import sys, time
started = time.perf_counter()
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Request
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
        self._model = engine.language_model
        self._n = n_steps
        self._sampling = Sampling(max_new_tokens=n_steps)
        self.steering = _random_steering(engine)
        gguf = embedded.gguf_file() if self._model.model_id == embedded.MODEL_ID else None
        self._llama = llama_cpp(gguf) if gguf is not None else None

    def round(self) -> dict[str, list[float]]:
        """case -> seconds of each of its steps. What else the machine does falls on all alike: our
        cases take turns at their steps, and what others run comes right before."""
        prompt = self._model.render([{"role": "user", "content": _PROMPT}])
        found = {BASELINE: _steps(generate_times(self._model, prompt, self._n))}
        if self._llama is not None:
            found[LLAMA_CPP] = _steps(self._llama(prompt, self._n))
        return found | self._interleaved()

    def _interleaved(self) -> dict[str, list[float]]:
        asked = (Message("user", _PROMPT),)
        cases = {
            name: self._engine.stream([self._request(asked, steered) for steered in rows])
            for name, rows in OURS.items()
        }
        for steps in cases.values():
            next(steps)  # the prefill
        found: dict[str, list[float]] = {name: [] for name in OURS}
        complete, order = True, list(OURS)
        while complete:
            order.reverse()  # what comes right before leaves its traces in the processor's caches
            for name in order:
                started = time.perf_counter()
                step = next(cases[name], ())
                # A row may end before its time; only complete batches count.
                complete &= len(step) == len(OURS[name])
                if complete:
                    found[name].append(time.perf_counter() - started)
        n = min(map(len, found.values()))
        for steps in cases.values():
            for _ in steps:
                pass
        self._engine.wait_for_reprefills()  # they are no part of the next round
        return {name: _checked(seconds[:n]) for name, seconds in found.items()}

    def _request(self, messages: tuple[Message, ...], steered: bool) -> Request:
        steering = self.steering if steered else None
        return Request(messages=messages, steering=steering, sampling=self._sampling)

    def first_tokens(self) -> list[float]:
        """Seconds to the first token of each turn of a conversation in two columns."""
        columns: list[tuple[Message, ...]] = [(), ()]
        found = []
        self._engine.forget()
        for turn in range(5):
            asked = Message("user", f"{_PROMPT} This is chapter {turn + 1}.")
            columns = [(*messages, asked) for messages in columns]
            requests = [self._request(columns[0], False), self._request(columns[1], True)]
            started = time.perf_counter()
            texts = ["", ""]
            for number, step in enumerate(self._engine.stream(requests)):
                if number == 0:
                    found.append(time.perf_counter() - started)
                for row in step:
                    texts[row.row] += row.text
            self._engine.wait_for_reprefills()
            columns = [
                (*messages, Message("assistant", text))
                for messages, text in zip(columns, texts, strict=True)
            ]
        return found

    def prefill_seconds(self) -> float:
        """Seconds per token to prefill some hundred tokens of text as one row."""
        sentence = "The sea was calm that day, and the boats lay still beside the old stone wall. "
        ids = self._model.encode_text(sentence * 8)
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
    people: Sequence[int] = (),
) -> dict[str, Any]:
    """Everything measured, ready for JSON. start_up: the model's name, to also start a fresh
    process that loads it. people: how many to answer at once."""
    if rounds < 1 or n_steps < 4:
        raise InputError("At least one round of four steps is needed.")
    bench = Bench(engine, n_steps=n_steps)
    bench.round()  # warm-up
    decoding, turns, prefills, bandwidth = [], [], [], []
    for _ in track(range(rounds), "Rounds"):
        decoding.append(bench.round())
        bandwidth.append(_read_bandwidth())
        turns.append(bench.first_tokens())
        prefills.append(bench.prefill_seconds())
    first_tokens = [statistics.median(turn) for turn in zip(*turns, strict=True)]
    return {
        "model": engine.model.id,
        "quantize": quantize,
        "about": engine.about,
        "machine": machine(),
        "rounds": rounds,
        "steps": n_steps,
        "decoding": [_summary(name, decoding) for name in decoding[0]],
        "costs": {what: _cost(*pair, decoding) for what, pair in COSTS.items()},
        "bandwidth": _bandwidth(engine, decoding, statistics.median(bandwidth)),
        "first_token_seconds": first_tokens,
        "last_turn_to_first": statistics.median(turn[-1] / turn[0] for turn in turns),
        "read_tokens_per_second": 1 / statistics.median(prefills),
        "memory_bytes": {"model": engine.language_model.memory, "process_peak": _peak_memory()},
        "crowd": _concurrent(engine, bench.steering, people, n_steps),
        "start_up_seconds": _start_up(start_up, quantize) if start_up else None,
    }


def _concurrent(
    engine: LocalEngine, steering: Steering, sizes: Sequence[int], n_steps: int
) -> list[dict[str, Any]]:
    """How it answers when many people write at once, each two columns, one of them steered. Per
    size: tokens per second of all together, and what one of them waits for."""
    if not sizes:
        return []
    shared = SharedEngine(engine.language_model, cache_bytes=0)
    _ask_all(shared, steering, 1, n_steps)  # warm-up
    return [_ask_all(shared, steering, size, n_steps) for size in sizes]


def _ask_all(shared: SharedEngine, steering: Steering, size: int, n_steps: int) -> dict[str, Any]:
    together = threading.Barrier(size)

    def ask(number: int) -> tuple[float, float, int]:
        message = Message("user", f"{_QUESTIONS[number % len(_QUESTIONS)]} ({number})")
        sampling = Sampling(max_new_tokens=n_steps, seed=number)
        requests = [
            Request(messages=(message,), steering=each, sampling=sampling)
            for each in (None, steering)
        ]
        together.wait()
        started = time.perf_counter()
        first, tokens = 0.0, 0
        for step in shared.stream(requests):
            first = first or time.perf_counter() - started
            tokens += sum(row.token_id is not None for row in step)
        return first, time.perf_counter() - started, tokens

    started = time.perf_counter()
    with ThreadPoolExecutor(size) as people:
        answers = list(people.map(ask, range(size)))
    seconds = time.perf_counter() - started
    firsts, wholes, tokens = zip(*answers, strict=True)
    return {
        "people": size,
        "tokens_per_second": sum(tokens) / seconds,
        "median_first_token_seconds": statistics.median(firsts),
        "last_first_token_seconds": max(firsts),
        "median_answer_seconds": statistics.median(wholes),
        "last_answer_seconds": max(wholes),
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


def _summary(name: str, rounds: Sequence[dict[str, list[float]]]) -> dict[str, Any]:
    """Steps per second by the median step of each round: one that was held up says nothing."""
    rates = [1 / statistics.median(each[name]) for each in rounds]
    # Each round against the baseline of that round.
    ratios = [
        rate * statistics.median(each[BASELINE]) for rate, each in zip(rates, rounds, strict=True)
    ]
    return {
        "name": name,
        "steps_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "ratio": statistics.median(ratios),
    }


def _cost(more: str, less: str, rounds: Sequence[dict[str, list[float]]]) -> float:
    """By how much a step of one case takes longer than the other case's beside it."""
    pairs = [pair for each in rounds for pair in zip(each[more], each[less], strict=True)]
    return statistics.median(longer / shorter for longer, shorter in pairs) - 1


def _bandwidth(
    engine: LocalEngine, rounds: Sequence[dict[str, list[float]]], machine: float
) -> dict[str, float] | None:
    """Bytes per second: of weights that a step of one row reads, and what this machine can read;
    None on a GPU, where that isn't measured."""
    model = engine.language_model
    if model.device.type != "cpu":
        return None
    read = (model.decoder.bytes if model.decoder else 0) or model.memory
    seconds = statistics.median(statistics.median(each[_ONE]) for each in rounds)
    return {"weights": read, "reached": read / seconds, "machine": machine}


def _read_bandwidth() -> float:
    """Bytes per second at which this machine's threads read memory."""
    numbers = torch.ones(_READ_BYTES // 4)
    started = time.perf_counter()
    numbers.sum()
    return _READ_BYTES / (time.perf_counter() - started)


def _steps(times: Sequence[float]) -> list[float]:
    return _checked([after - before for before, after in itertools.pairwise(times)])


def _checked(seconds: list[float]) -> list[float]:
    if not seconds:
        raise ModelError("The model ended its reply before two tokens, so nothing can be timed.")
    return seconds


def _random_steering(engine: LocalEngine) -> Steering:
    """A random direction at two thirds of the depth, small enough that the text stays text."""
    model = engine.language_model
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
