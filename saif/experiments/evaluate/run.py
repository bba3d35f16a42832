"""Evaluation run: make a cell's replies, check them, record them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import Reply
from saif.experiments.baselines import (
    Condition,
    Subject,
    message_for,
    spec_for,
    steering_of,
)
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord, RunFolder, Timing
from saif.experiments.evaluate.score import CheckedReply, Task, check_replies, make_replies


@dataclass(frozen=True, slots=True)
class Trial:
    """What one cell measures. In a sweep the subject's choice is a changed one, and the cell
    says in which value."""

    cell: Cell
    subject: Subject
    condition: Condition
    contents: Sequence[str]
    max_new_tokens: int
    bound: float
    """The perplexity beyond which a reply is degenerate (see `saif.core.fluency`)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell's replies and what they took."""

    checked: list[CheckedReply]
    tasks: list[Task]
    generation_seconds: float
    checking_seconds: float


class Evaluation:
    """Makes and checks the replies of trials.

    Every cell is decoded by itself, so that its replies don't depend on which other cells were
    asked for. Replies that no steering touches are the same for every preset with the same texts,
    and are made once; they are checked once by each instruction's check.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self._sampling = Sampling(temperature=temperature, seed=seed)
        self._advance = advance
        self._made: dict[tuple[str, ...], tuple[list[Reply], float]] = {}
        self._measured: dict[tuple[str, ...], Measured] = {}

    def measure(self, trial: Trial) -> Measured:
        subject = trial.subject
        steering = steering_of(trial.condition, subject)
        tasks = [
            Task(message_for(trial.condition, subject, text), text, steering)
            for text in trial.contents
        ]
        if steering is not None:
            return self._check(trial, tasks, *self._make(trial, tasks))
        # What is sent decides an unsteered reply, and nothing else does.
        messages = tuple(task.message for task in tasks)
        key = (subject.instruction.id, *messages)
        if key not in self._measured:
            if messages not in self._made:
                self._made[messages] = self._make(trial, tasks)
            self._measured[key] = self._check(trial, tasks, *self._made[messages])
        return self._measured[key]

    def run(self, folder: RunFolder, trials: Sequence[Trial]) -> Iterator[Cell]:
        """Measure what the folder doesn't hold yet, writing each cell as soon as it is done."""
        done = set(folder.resume())
        for trial in trials:
            if trial.cell not in done:
                folder.append(*_records(trial, self.measure(trial)))
            yield trial.cell

    def _make(self, trial: Trial, tasks: Sequence[Task]) -> tuple[list[Reply], float]:
        started = time.perf_counter()
        sampling = replace(self._sampling, max_new_tokens=trial.max_new_tokens)
        replies = make_replies(self.engine, tasks, sampling=sampling, advance=self._advance)
        return replies, time.perf_counter() - started

    def _check(
        self, trial: Trial, tasks: list[Task], replies: list[Reply], seconds: float
    ) -> Measured:
        started = time.perf_counter()
        checked = check_replies(
            self.engine, trial.subject.instruction, tasks, replies, contents=list(trial.contents)
        )
        return Measured(checked, tasks, seconds, time.perf_counter() - started)


def _records(trial: Trial, measured: Measured) -> tuple[list[ReplyRecord], Timing]:
    spec = spec_for(trial.condition, trial.subject)
    steering = measured.tasks[0].steering
    # As run folders have always held it.
    as_stored = (
        None
        if spec is None
        else {
            "layers": list(spec.layers),
            "dose": round(spec.dose, 4),
            "latents": None if spec.latents is None else asdict(spec.latents),
            "shape": asdict(spec.schedule),
        }
    )
    records = [
        ReplyRecord(
            cell=trial.cell,
            content=task.content,
            message=task.message,
            push=as_stored,
            text=checked.reply.text,
            token_ids=list(checked.reply.token_ids),
            stop=checked.reply.stop,
            steered=checked.reply.steered,
            dose=None if steering is None else round(steering.total_dose, 4),
            loose=checked.loose,
            strict=checked.strict(trial.bound),
            about=checked.relevant,
            problems=checked.fluency.problems(trial.bound),
            perplexity=_rounded(checked.fluency.perplexity),
        )
        for task, checked in zip(measured.tasks, measured.checked, strict=True)
    ]
    timing = Timing(
        cell=trial.cell,
        tokens=sum(len(record.token_ids) for record in records),
        generation_seconds=round(measured.generation_seconds, 2),
        judging_seconds=round(measured.checking_seconds, 2),
    )
    return records, timing


def _rounded(value: float | None) -> float | None:
    """Two digits are what a person reads; NaN (an empty reply) is no number in JSON."""
    return None if value is None or value != value else round(value, 2)
