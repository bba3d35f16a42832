"""Scoring: make replies for many texts under one condition, and check them with code."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from saif.core.fluency import Fluency, fluency
from saif.core.relevance import N_DISTRACTORS, is_relevant
from saif.core.steering import Steering
from saif.core.verifiers import follows
from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Message, Reply, Request, complete
from saif.errors import InputError
from saif.presets.instructions import Instruction, place

BATCH = 96
"""Rows that decode together: where two cores give the most tokens per second."""

_SCORING_BATCH = 48


@dataclass(frozen=True, slots=True)
class CheckedReply:
    """One reply and what the checks say."""

    content: str
    reply: Reply
    loose: bool
    fluency: Fluency
    relevant: bool | None
    """None where it needn't be checked: a reply that isn't loose, or that repeats itself, can't be
    strict anyway."""

    def degenerate(self, bound: float) -> bool:
        return bool(self.fluency.problems(bound))

    def strict(self, bound: float) -> bool:
        return self.loose and not self.degenerate(bound) and bool(self.relevant)


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
    """Replies, in the order of the tasks. `advance` is told how many more are done.

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


def check_replies(
    engine: LocalEngine,
    instruction: Instruction,
    tasks: Sequence[Task],
    replies: Sequence[Reply],
    *,
    contents: Sequence[str],
) -> list[CheckedReply]:
    """Check replies in every respect. `contents` supplies the other texts a reply must not fit
    as well."""
    return check_relevance(
        engine, instruction, check_form(engine, instruction, tasks, replies), contents
    )


def check_form(
    engine: LocalEngine, instruction: Instruction, tasks: Sequence[Task], replies: Sequence[Reply]
) -> list[CheckedReply]:
    """Check everything but relevance, which is expensive: a loose reply is taken to be relevant
    until `check_relevance` has looked."""
    totals = _reply_log_probabilities(engine, [task.content for task in tasks], replies)
    checked = []
    for task, reply, total in zip(tasks, replies, totals, strict=True):
        # A summary has to come to its end: any reply is short if it is cut off early enough.
        cut_off = instruction.check.kind == "summary" and reply.stop != "end"
        loose = not cut_off and follows(instruction.check, reply.text, task.content)
        n = len(reply.token_ids)
        perplexity = math.exp(min(-total / n, 700)) if n else math.nan
        flow = fluency(reply.token_ids, reply.text, perplexity)
        may_be_strict = loose and bool(reply.token_ids) and not flow.problems(math.inf)
        checked.append(CheckedReply(task.content, reply, loose, flow, may_be_strict or None))
    return checked


def check_relevance(
    engine: LocalEngine,
    instruction: Instruction,
    checked: Sequence[CheckedReply],
    contents: Sequence[str],
) -> list[CheckedReply]:
    """Check whether the replies that can still be strict are relevant to their contents, which
    takes four forward passes over each."""
    wanted = [j for j in checked if j.relevant]
    # The content in question, then the others; each asked for in words.
    messages = [
        place(instruction.main_wording, text, "pre")
        for j in wanted
        for text in (j.content, *_distractors(j.content, contents))
    ]
    replies = [j.reply for j in wanted for _ in range(1 + N_DISTRACTORS)]
    scores = iter(_reply_log_probabilities(engine, messages, replies))

    def relevant() -> bool:
        return is_relevant(next(scores), [*islice(scores, N_DISTRACTORS)])

    return [replace(j, relevant=relevant()) if j.relevant else j for j in checked]


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
    model = engine.language_model
    result = [0.0] * len(replies)
    # Replies to one message side by side, so that the message runs once for all of them, and
    # messages of like length, to waste no padding.
    order = [i for i, reply in enumerate(replies) if reply.token_ids]
    order.sort(key=lambda i: (len(messages[i]), messages[i], len(replies[i].token_ids)))
    for start in range(0, len(order), _SCORING_BATCH):
        chunk = order[start : start + _SCORING_BATCH]
        rows = [
            (model.render([{"role": "user", "content": messages[i]}]), replies[i].token_ids)
            for i in chunk
        ]
        for i, scores in zip(chunk, model.log_probabilities(rows), strict=True):
            result[i] = float(scores.sum())
    return result
