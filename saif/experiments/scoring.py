"""Make replies for many texts under one condition, and judge them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from saif.core.aboutness import N_DISTRACTORS, is_about
from saif.core.fluency import Fluency, fluency
from saif.core.statistics import Rate, rate
from saif.core.steering import Steering
from saif.core.verifiers import Check, follows
from saif.engine import LocalEngine, Message, Reply, Request, complete
from saif.errors import InputError
from saif.generation import Sampling
from saif.presets.instructions import Instruction, place
from saif.presets.preset import ConditionScores, Interval

BATCH = 96
"""Rows that decode together: where two cores give the most tokens per second."""

_SCORING_BATCH = 48
_WORTH_A_BATCH = 12


@dataclass(frozen=True, slots=True)
class Judged:
    """One reply and what the checks say. about is None where it wasn't asked: a reply that isn't
    loose, or that repeats itself, can't be strict anyway."""

    content: str
    reply: Reply
    loose: bool
    fluency: Fluency
    about: bool | None

    def degenerate(self, bound: float) -> bool:
        return bool(self.fluency.problems(bound))

    def strict(self, bound: float) -> bool:
        return self.loose and not self.degenerate(bound) and bool(self.about)


@dataclass(frozen=True, slots=True)
class Task:
    """One reply to make: what the user writes, the text it is about, and the steering."""

    message: str
    content: str
    steering: Steering | None = None


def make_replies(
    engine: LocalEngine,
    tasks: Sequence[Task],
    *,
    sampling: Sampling,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Reply]:
    """Replies, in the order of the tasks. `advance` hears how many more are done.

    Every content draws with a seed of its own, the same under every condition, so that replies to
    one content can be compared in pairs and those to different ones are independent.
    """
    places = {text: i for i, text in enumerate(dict.fromkeys(task.content for task in tasks))}
    # Prompts of like length together, so that little of a batch is padding.
    order = sorted(range(len(tasks)), key=lambda i: len(tasks[i].message))
    replies: dict[int, Reply] = {}
    for start in range(0, len(order), BATCH):
        chunk = order[start : start + BATCH]
        requests = [
            Request(
                messages=(Message("user", tasks[i].message),),
                steering=tasks[i].steering,
                sampling=replace(sampling, seed=sampling.seed + places[tasks[i].content]),
            )
            for i in chunk
        ]
        replies.update(zip(chunk, complete(engine, requests), strict=True))
        advance(len(chunk))
    return [replies[i] for i in range(len(tasks))]


def judge(
    engine: LocalEngine,
    instruction: Instruction,
    tasks: Sequence[Task],
    replies: Sequence[Reply],
    *,
    contents: Sequence[str],
    ask_about: bool = True,
) -> list[Judged]:
    """Judge replies. `contents` supplies the other texts a reply must not fit as well. Without
    `ask_about`, which takes four more readings of a reply, every reply passes for being about its
    content."""
    totals = _reply_log_probabilities(engine, [task.content for task in tasks], replies)
    check = instruction.check
    loose = [_is_loose(check, task, reply) for task, reply in zip(tasks, replies, strict=True)]
    flow = [
        fluency(reply.token_ids, reply.text, _perplexity(total, len(reply.token_ids)))
        for reply, total in zip(replies, totals, strict=True)
    ]
    about: list[bool | None] = [None if ask_about else True] * len(tasks)
    wanted = [
        i
        for i, reply in enumerate(replies)
        if ask_about and loose[i] and reply.token_ids and not flow[i].problems(math.inf)
    ]
    # The content in question, then the others; each asked for in words.
    flat = [
        (i, place(instruction.main_wording, text, "pre"))
        for i in wanted
        for text in (tasks[i].content, *_distractors(tasks[i].content, contents))
    ]
    scores = _reply_log_probabilities(engine, [t for _, t in flat], [replies[i] for i, _ in flat])
    for number, i in enumerate(wanted):
        own, *others = scores[number * (1 + N_DISTRACTORS) : (number + 1) * (1 + N_DISTRACTORS)]
        about[i] = is_about(own, others)
    return [
        Judged(task.content, reply, loose[i], flow[i], about[i])
        for i, (task, reply) in enumerate(zip(tasks, replies, strict=True))
    ]


def _is_loose(check: Check, task: Task, reply: Reply) -> bool:
    """A summary has to come to its end: any reply is short if it is cut off early enough."""
    cut_off = check.kind == "summary" and reply.stop != "end"
    return not cut_off and follows(check, reply.text, task.content)


def _distractors(content: str, contents: Sequence[str]) -> list[str]:
    """The contents that follow `content` in its set, around the end."""
    if len(contents) <= N_DISTRACTORS:
        raise InputError(
            f"{len(contents)} texts are too few to tell whether a reply is about its own.",
            hint=f"Give at least {N_DISTRACTORS + 1}.",
        )
    start = contents.index(content)
    return [contents[(start + step) % len(contents)] for step in range(1, N_DISTRACTORS + 1)]


def _reply_log_probabilities(
    engine: LocalEngine, messages: Sequence[str], replies: Sequence[Reply]
) -> list[float]:
    """log p(reply | message) under the unsteered model, in nats; 0 for an empty reply."""
    model = engine.steerable
    result = [0.0] * len(replies)
    for chunk in _scoring_batches(messages, replies):
        rows = [
            (model.render([{"role": "user", "content": messages[i]}]), replies[i].token_ids)
            for i in chunk
        ]
        for i, scores in zip(chunk, model.log_probabilities(rows), strict=True):
            result[i] = float(scores.sum())
    return result


def _scoring_batches(messages: Sequence[str], replies: Sequence[Reply]) -> Iterator[list[int]]:
    """Rows that are read together: replies to one message where there are many, so that the
    message is read once for all of them; otherwise rows of like length, to waste no padding."""
    groups: dict[str, list[int]] = {}
    for i, reply in enumerate(replies):
        if reply.token_ids:
            groups.setdefault(messages[i], []).append(i)
    alone = [rows for rows in groups.values() if len(rows) >= _WORTH_A_BATCH]
    mixed = [i for rows in groups.values() if len(rows) < _WORTH_A_BATCH for i in rows]
    for rows in [*alone, mixed]:
        rows.sort(key=lambda i: len(replies[i].token_ids) + len(messages[i]) // 4)
        for start in range(0, len(rows), _SCORING_BATCH):
            yield rows[start : start + _SCORING_BATCH]


def _perplexity(log_probability: float, n_tokens: int) -> float:
    return math.exp(min(-log_probability / n_tokens, 700)) if n_tokens else math.nan


def summarise(
    condition: str,
    judged: Sequence[Judged],
    bound: float,
    *,
    layer: int | None = None,
    dose: float | None = None,
) -> ConditionScores:
    """One condition's rates. A degenerate reply is never strict, but may be loose."""
    perplexities = [
        value
        for value in (j.fluency.perplexity for j in judged)
        if value is not None and not math.isnan(value)
    ]
    return ConditionScores(
        condition=condition,
        layer=layer,
        loose=_interval(rate([j.loose for j in judged])),
        strict=_interval(rate([j.strict(bound) for j in judged])),
        degenerate=_interval(rate([j.degenerate(bound) for j in judged])),
        perplexity=round(median(perplexities), 2) if perplexities else None,
        dose=None if dose is None else round(dose, 4),
    )


def _interval(found: Rate) -> Interval:
    low, high = found.wilson()
    return Interval(successes=found.successes, n=found.n, low=round(low, 4), high=round(high, 4))
