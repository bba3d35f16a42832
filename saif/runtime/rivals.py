"""What a person would use instead of this package, timed: transformers' own loop and llama.cpp."""

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch

from saif.runtime.model import SteerableModel


def generate_times(model: SteerableModel, token_ids: list[int], n: int) -> list[float]:
    """When each of `n` tokens came out of `transformers.generate`; greedy, one row."""
    from transformers.generation.streamers import BaseStreamer

    class Clock(BaseStreamer):
        def __init__(self) -> None:
            self.times: list[float] = []

        def put(self, value: Any) -> None:  # noqa: ARG002
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    clock = Clock()
    ids = torch.tensor([token_ids], device=model.device)
    with model._lock:  # a pass with hooks on the blocks may be under way
        model._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=n,
            max_new_tokens=n,
            pad_token_id=0,
            streamer=clock,
        )
    return clock.times[1:]  # the first is the prompt's


def has_llama_cpp() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


class LlamaCpp:
    """The same GGUF file in llama.cpp, where its Python package is installed."""

    def __init__(self, gguf: Path) -> None:
        import llama_cpp

        threads = torch.get_num_threads()
        self._llama = llama_cpp.Llama(str(gguf), n_ctx=1024, n_threads=threads, verbose=False)

    def times(self, token_ids: list[int], n: int) -> list[float]:
        """When each of up to `n` tokens came."""
        found: list[float] = []
        for _ in self._llama.generate(token_ids, temp=0.0):
            found.append(time.perf_counter())
            if len(found) == n:
                break
        return found
