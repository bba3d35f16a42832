"""The bench's baselines, timed: transformers' own loop and llama.cpp."""

import importlib.util
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import torch

from saif.runtime.language_model import LanguageModel

_CONTEXT = 1024  # positions that llama.cpp allocates

StepTimes = Callable[[list[int], int], list[float]]
"""When each of up to `n` tokens after these token ids came; greedy, one row."""


def generate_times(model: LanguageModel, token_ids: list[int], n: int) -> list[float]:
    """When each of `n` tokens came out of `transformers.generate`; greedy, one row."""
    times: list[float] = []
    ids = torch.tensor([token_ids], device=model.device)
    with model._lock:  # a pass with hooks on the blocks may be under way
        model._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=n,
            max_new_tokens=n,
            pad_token_id=0,
            streamer=SimpleNamespace(
                put=lambda _: times.append(time.perf_counter()), end=lambda: None
            ),
        )
    return times[1:]  # the first is the prompt's


def llama_cpp(gguf: Path) -> StepTimes | None:
    """The same file in llama.cpp, by whichever of its Python packages is installed; None without
    one."""
    for package, opened in (("llama_cpp", _llama_cpp_python), ("xllamacpp", _xllamacpp)):
        if importlib.util.find_spec(package) is not None:
            return opened(gguf)
    return None


def _llama_cpp_python(gguf: Path) -> StepTimes:
    import llama_cpp

    threads = torch.get_num_threads()
    llama = llama_cpp.Llama(str(gguf), n_ctx=_CONTEXT, n_threads=threads, verbose=False)
    return lambda token_ids, n: [
        time.perf_counter() for _ in islice(llama.generate(token_ids, temp=0.0), n)
    ]


def _xllamacpp(gguf: Path) -> StepTimes:
    """llama.cpp's server inside this process, without its HTTP."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.verbosity = _CONTEXT, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(params)

    def times(token_ids: list[int], n: int) -> list[float]:
        asked = {"prompt": token_ids, "n_predict": n, "temperature": 0}
        found: list[float] = []

        def note_time(_piece: object) -> bool:
            found.append(time.perf_counter())
            return False  # and go on

        server.handle_completions(asked | {"ignore_eos": True, "stream": True}, note_time)
        return found[:n]  # a last piece says why it ended

    return times
