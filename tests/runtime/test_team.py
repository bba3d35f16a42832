"""The threads of the compiled step give the same bits, and nobody else's slow them."""

import ctypes
import threading
import time

import torch
from lean_models import PROMPTS, logits_of, native, steering

from saif.runtime.batch import Batch, RowStart
from saif.runtime.model import SteerableModel


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


def test_any_number_of_threads_gives_the_same_bits(library: ctypes.CDLL) -> None:
    """More than there are cores, too, and after a while in which they went to sleep."""
    model = native("llama", library)
    starts = [RowStart(ids) for ids in PROMPTS]
    torch.set_num_threads(1)
    expected = logits_of(model, starts)[1:]
    for threads in (2, 5, 3):
        torch.set_num_threads(threads)
        batch, _ = model.start(starts)
        copies, _ = model.start(starts)
        assert torch.equal(*(every(model, each, n) for each, n in ((batch, 1), (copies, threads))))
        time.sleep(0.05)
    assert expected.isfinite().all()


def every(model: SteerableModel, batch: Batch, threads: int) -> torch.Tensor:
    torch.set_num_threads(threads)
    return torch.stack([model.advance(batch, [65] * len(PROMPTS)).logits for _ in range(6)])


def test_what_others_read_in_the_background_does_not_slow_it(library: ctypes.CDLL) -> None:
    """A thread that has used PyTorch's own and lives on: with OpenMP's ways of meeting, a step of
    many layers took many times as long from then on."""
    torch.set_num_threads(2)
    model = native("llama", library, num_hidden_layers=24)

    def seconds() -> float:
        batch, _ = model.start([RowStart(PROMPTS[0])])
        times = []
        for _ in range(100):
            started = time.perf_counter()
            model.advance(batch, [65])
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
    assert after < 3.5 * before  # it was five to eight times as much
