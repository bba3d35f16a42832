"""The threads of the C step give the same bits, and nobody else's slow them."""

import ctypes
import resource
import threading
import time

import pytest
import torch
from step_models import PROMPTS, compiled, logits_of, steering

from saif.runtime.batch import Batch, Row

pytestmark = pytest.mark.serial


def test_two_models_step_at_once(c_library: ctypes.CDLL) -> None:
    torch.set_num_threads(2)
    models = [compiled("llama", c_library), compiled("qwen3", c_library)]
    starts = [
        [Row(ids), Row(ids, steering(model, 1, "all"))]
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


def test_any_number_of_threads_gives_the_same_bits(
    c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than there are cores, too, and after a while in which they slept."""
    model = compiled("llama", c_library)
    starts = [Row(ids) for ids in PROMPTS]

    def replies(batch: Batch, threads: int) -> torch.Tensor:
        monkeypatch.setattr(model.decoder._policy, "choose", lambda *_: threads)
        return torch.stack([model.decode_step(batch, [65] * len(starts)).logits for _ in range(6)])

    for threads in (2, 5, 3):
        # Prompts are read by the model itself, which promises no equal bits.
        torch.set_num_threads(1)
        one, many = model.prefill(starts)[0], model.prefill(starts)[0]
        expected = replies(one, 1)
        assert expected.isfinite().all()
        assert torch.equal(replies(many, threads), expected)
        time.sleep(0.05)


def test_a_prefill_in_the_background_puts_no_thread_to_sleep(
    c_library: ctypes.CDLL,
) -> None:
    """A thread that has used PyTorch's own and lives on: at OpenMP's barriers, a step's
    threads slept hundreds of times from then on, and it took many times as long."""
    torch.set_num_threads(2)
    model = compiled("llama", c_library, num_hidden_layers=24)

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
    batch, _ = model.prefill([Row(PROMPTS[0])])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(100):
        model.decode_step(batch, [65])
    sleeps = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
    ended.set()
    for other in others:
        other.join()
    assert sleeps / 100 < 20
