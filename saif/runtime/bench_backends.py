"""The bench's baselines, timed: transformers' own loop and llama.cpp."""

import importlib.util
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from saif.runtime.language_model import LanguageModel

_CONTEXT = 1024  # positions that llama.cpp allocates


def generate_times(model: LanguageModel, token_ids: list[int], n: int) -> list[float]:
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


class LlamaCpp(Protocol):
    """The same GGUF file in llama.cpp."""

    def times(self, token_ids: list[int], n: int) -> list[float]:
        """When each of up to `n` tokens came; greedy, one row."""


def llama_cpp(gguf: Path) -> LlamaCpp | None:
    """By whichever of its Python packages is installed; None without one."""
    for package, backend in (("llama_cpp", _LlamaCppPython), ("xllamacpp", _XLlamaCpp)):
        if importlib.util.find_spec(package) is not None:
            return backend(gguf)
    return None


class _LlamaCppPython:
    def __init__(self, gguf: Path) -> None:
        import llama_cpp

        threads = torch.get_num_threads()
        self._llama = llama_cpp.Llama(str(gguf), n_ctx=_CONTEXT, n_threads=threads, verbose=False)

    def times(self, token_ids: list[int], n: int) -> list[float]:
        found: list[float] = []
        for _ in self._llama.generate(token_ids, temp=0.0):
            found.append(time.perf_counter())
            if len(found) == n:
                break
        return found


class _XLlamaCpp:
    """llama.cpp's server inside this process, without its HTTP."""

    def __init__(self, gguf: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_ctx, params.n_parallel, params.verbosity = _CONTEXT, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        self._server = xllamacpp.Server(params)

    def times(self, token_ids: list[int], n: int) -> list[float]:
        asked = {
            "prompt": token_ids,
            "n_predict": n,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        found: list[float] = []

        def note_time(_piece: object) -> bool:
            found.append(time.perf_counter())
            return False  # and go on

        self._server.handle_completions(asked, note_time)
        return found[:n]  # a last piece says why it ended
