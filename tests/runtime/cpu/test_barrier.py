"""The threads of the compiled step give the same bits, and nobody else's slow them."""

import ctypes
import resource
import threading
import time

import pytest
import torch
from step_models import PROMPTS, logits_of, native, steering

from saif.runtime.batch import Batch, RowStart

pytestmark = pytest.mark.serial


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

    def replies(batch: Batch, threads: int) -> torch.Tensor:
        torch.set_num_threads(threads)
        return torch.stack([model.advance(batch, [65] * len(starts)).logits for _ in range(6)])

    for threads in (2, 5, 3):
        # Prompts are read by the model itself, which promises no equal bits.
        torch.set_num_threads(1)
        one, many = model.start(starts)[0], model.start(starts)[0]
        expected = replies(one, 1)
        assert expected.isfinite().all()
        assert torch.equal(replies(many, threads), expected)
        time.sleep(0.05)


def test_what_others_read_in_the_background_does_not_put_it_to_sleep(library: ctypes.CDLL) -> None:
    """A thread that has used PyTorch's own and lives on: with OpenMP's ways of meeting, a step's
    threads slept at each of its hundreds of meetings from then on, and took many times as long."""
    torch.set_num_threads(2)
    model = native("llama", library, num_hidden_layers=24)

    def use_threads() -> None:
        torch.set_num_threads(2)
        torch.ones(1 << 20).exp().sum()
        used.release()
        ended.wait(60)

    used, ended = threading.Semaphore(0), threading.Event()
    others = [threading.Thread(target=use_threads) for _ in range(3)]
    for other in others:
        other.start()
    for _ in others:
        used.acquire(timeout=60)
    batch, _ = model.start([RowStart(PROMPTS[0])])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(100):
        model.advance(batch, [65])
    sleeps = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
    ended.set()
    for other in others:
        other.join()
    assert sleeps / 100 < 20
