"""The threads of the compiled step: their own, whoever else uses threads, and never in the way."""

import ctypes
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from lean_models import PROMPTS, logits_of, native, steering

from saif.runtime.batch import RowStart
from saif.runtime.grouped import GroupedLinear


def test_two_models_step_at_once(library: ctypes.CDLL) -> None:
    torch.set_num_threads(2)
    models = [native("llama", library), native("qwen3", library)]
    starts = [
        [RowStart(ids), RowStart(ids, steering(model, 1, "all"))]
        for model, ids in zip(models, PROMPTS, strict=False)
    ]
    alone = [logits_of(model, each, 40) for model, each in zip(models, starts, strict=True)]
    found: dict[int, torch.Tensor] = {}

    def run(which: int) -> None:
        torch.set_num_threads(2)
        found[which] = logits_of(models[which], starts[which], 40)

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for which, expected in enumerate(alone):
        assert torch.equal(found[which], expected)


def test_a_team_that_has_gone_to_sleep_wakes_up(library: ctypes.CDLL) -> None:
    linear, x = GroupedLinear(library, torch.ones(64, 64)), torch.ones(3, 64)
    for threads in (2, 4, 1, 3, 2):
        torch.set_num_threads(threads)
        time.sleep(0.05)
        for _ in range(20):
            assert linear(x).eq(64).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_has_a_team_of_its_own(library: ctypes.CDLL) -> None:
    script = f"""
import ctypes, os, sys, torch
from saif.runtime.grouped import GroupedLinear
torch.set_num_threads(2)
linear, x = GroupedLinear(ctypes.CDLL({library._name!r}), torch.ones(64, 64)), torch.ones(3, 64)
assert linear(x).eq(64).all()
child = os.fork()
right = bool((linear(x).numpy() == 64).all())
if not child:
    os._exit(0 if right else 1)
assert right and os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], timeout=60, check=True)


def test_what_others_read_in_the_background_does_not_slow_it(library: ctypes.CDLL) -> None:
    """A thread that has used PyTorch's own and lives on: with OpenMP, a step took three times as
    long from then on."""
    torch.set_num_threads(2)
    linear, x = GroupedLinear(library, torch.ones(512, 512)), torch.ones(1, 512)

    def seconds() -> float:
        times = []
        for _ in range(300):
            started = time.perf_counter()
            linear(x)
            times.append(time.perf_counter() - started)
        return sorted(times)[len(times) // 10]

    def use_threads() -> None:
        torch.set_num_threads(2)
        torch.ones(1 << 20).exp().sum()
        used.release()
        ended.wait(60)

    seconds()
    before = seconds()
    used, ended = threading.Semaphore(0), threading.Event()
    others = [threading.Thread(target=use_threads) for _ in range(3)]
    for other in others:
        other.start()
    for _ in others:
        used.acquire(timeout=60)
    time.sleep(0.1)
    after = seconds()
    ended.set()
    for other in others:
        other.join()
    assert after < 1.8 * before
