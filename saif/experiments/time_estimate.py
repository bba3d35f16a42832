"""Estimate of how long a preset takes here, from a little of each kind of work."""

import time
from collections.abc import Mapping
from itertools import pairwise

from saif.core.types import Sampling
from saif.engine.local import LocalEngine
from saif.experiments.calibrate.budget import BUDGETS
from saif.experiments.evaluate.score import Task, check_form, make_replies
from saif.experiments.identify import last_residuals
from saif.presets.instructions import Instruction, place
from saif.progress import Part

_ROWS, _TOKENS = 24, 4
_RELEVANCE = 1.5  # checking relevance as well, against form alone, over a whole search
_LAYER_SECONDS = 2.0  # loading an SAE and scoring its latents; little beside the rest


def measure_unit_times(engine: LocalEngine, instruction: Instruction) -> dict[Part, float]:
    """Seconds that one of each part takes. Needs a few seconds itself."""
    texts = [instruction.examples[i % len(instruction.examples)] for i in range(_ROWS)]
    prompts = [place(instruction.main_wording, text, "post") for text in texts]
    tasks = [Task(text, text) for text in texts]
    last_residuals(
        engine.language_model, prompts[:1], [0]
    )  # the first pass is slower than the rest
    times = [time.perf_counter()]
    last_residuals(engine.language_model, prompts, [0])
    times.append(time.perf_counter())
    for n in (1, 1 + _TOKENS):
        replies = make_replies(engine, tasks, sampling=Sampling(max_new_tokens=n))
        times.append(time.perf_counter())
    check_form(engine, instruction, tasks, replies)
    times.append(time.perf_counter())
    prefill, one_token, more_tokens, checking = (b - a for a, b in pairwise(times))
    longest = BUDGETS["thorough", instruction.contents].max_new_tokens
    writing = one_token + max(0.0, more_tokens - one_token) * longest / _TOKENS
    return {
        "prompts": prefill / _ROWS,
        "layers": _LAYER_SECONDS,
        "replies": (writing + _RELEVANCE * checking) / _ROWS,
    }


def seconds_for(work: Mapping[Part, int], unit_times: Mapping[Part, float]) -> float:
    return sum(n * unit_times[part] for part, n in work.items())
