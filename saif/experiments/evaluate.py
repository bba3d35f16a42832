"""Measure presets under conditions: make a cell's replies, judge them, record them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from saif.core.steering import Steering
from saif.engine import LocalEngine
from saif.errors import PresetError
from saif.experiments.directions import (
    CONDITIONS,
    Condition,
    Subject,
    message_for,
    push_for,
    steering_of,
)
from saif.experiments.records import Cell, ReplyRecord, RunFolder, Timing
from saif.experiments.scoring import Judged, Task, judge, make_replies, summarise
from saif.generation import Sampling
from saif.presets.preset import ConditionScores, Scores
from saif.presets.push import Push, steering_for

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What one cell measures. push: instead of the condition's own, in a sweep; strength: times
    the calibrated one, 0 for no steering at all."""

    cell: Cell
    subject: Subject
    condition: Condition
    contents: Sequence[str]
    max_new_tokens: int
    push: Push | None = None
    strength: float = 1.0

    def pushed(self) -> Push | None:
        if self.strength == 0:
            return None
        push = push_for(self.condition, self.subject) if self.push is None else self.push
        return push if push is None else replace(push, dose=push.dose * self.strength)

    def steering(self) -> Steering | None:
        if self.push is None and self.strength == 1:
            return steering_of(self.condition, self.subject)
        push = self.pushed()
        if push is None:
            return None
        return steering_for(self.subject.preset, self.subject.placement, push)


@dataclass(frozen=True, slots=True)
class Measured:
    """A cell's replies and what they took. steering: None where nothing was steered."""

    judged: list[Judged]
    tasks: list[Task]
    steering: Steering | None
    generation_seconds: float
    judging_seconds: float


class Evaluation:
    """Makes and judges the replies of trials.

    Every cell is decoded by itself, so that its replies don't depend on which other cells were
    asked for. Replies that no steering touches are the same for every preset with the same texts,
    and are made once.
    """

    def __init__(
        self,
        engine: LocalEngine,
        *,
        temperature: float = 0.0,
        seed: int = 0,
        advance: Advance = lambda _: None,
    ) -> None:
        self.engine = engine
        self._sampling = Sampling(temperature=temperature, seed=seed)
        self._advance = advance
        self._plain: dict[tuple[str, ...], tuple[list[Judged], float]] = {}

    def measure(self, trial: Trial) -> Measured:
        steering = trial.steering()
        subject = trial.subject
        tasks = [
            Task(message_for(trial.condition, subject, text), text, steering)
            for text in trial.contents
        ]
        started = time.perf_counter()
        # What is sent decides an unsteered reply, and nothing else does.
        key = () if steering else tuple(task.message for task in tasks)
        known = self._plain.get(key) if key else None
        if known is None:
            sampling = replace(self._sampling, max_new_tokens=trial.max_new_tokens)
            replies = make_replies(self.engine, tasks, sampling=sampling, advance=self._advance)
            generated = time.perf_counter() - started
        else:
            replies, generated = [judged.reply for judged in known[0]], known[1]
            self._advance(len(tasks))
        started = time.perf_counter()
        judged = judge(
            self.engine, subject.instruction, tasks, replies, contents=list(trial.contents)
        )
        if key:
            self._plain[key] = (judged, generated)
        return Measured(judged, tasks, steering, generated, time.perf_counter() - started)

    def scores(
        self,
        subject: Subject,
        contents: Sequence[str],
        *,
        max_new_tokens: int,
        bound: float,
        command: str,
    ) -> Scores:
        """All of `CONDITIONS` on held-out `contents`. bound: see `saif.core.fluency`."""
        rows = []
        for condition in CONDITIONS:
            cell = Cell(preset=subject.preset.id, placement=subject.placement, condition=condition)
            measured = self.measure(
                Trial(
                    cell=cell,
                    subject=subject,
                    condition=condition,
                    contents=contents,
                    max_new_tokens=max_new_tokens,
                )
            )
            rows.append(_row(condition, measured, bound))
        return Scores(
            split="held-out",
            n=len(contents),
            max_new_tokens=max_new_tokens,
            perplexity_bound=round(bound, 2),
            command=command,
            conditions=rows,
        )


def run_trials(
    evaluation: Evaluation, folder: RunFolder, trials: Sequence[Trial]
) -> Iterator[Cell]:
    """Measure what the folder doesn't hold yet, writing each cell as soon as it is done."""
    done = set(folder.resume())
    for trial in trials:
        if trial.cell not in done:
            measured = evaluation.measure(trial)
            folder.append(_records(trial, measured), _timing(trial, measured))
        yield trial.cell


def perplexity_bound(subject: Subject) -> float:
    """The bound that calibration derived for this preset. Raises PresetError without one."""
    scores = subject.preset.preset.placements[subject.placement].scores
    if scores is None:
        raise PresetError(
            f"The preset '{subject.preset.id}' is not calibrated.",
            hint="Run `python -m saif calibrate` first.",
        )
    return scores.perplexity_bound


def _records(trial: Trial, measured: Measured) -> list[ReplyRecord]:
    bound = perplexity_bound(trial.subject)
    push = trial.pushed()
    steering = measured.steering
    return [
        ReplyRecord(
            cell=trial.cell,
            content=task.content,
            message=task.message,
            push=None if push is None else _plain_values(push),
            text=judged.reply.text,
            token_ids=list(judged.reply.token_ids),
            stop=judged.reply.stop,
            steered=judged.reply.steered,
            dose=None if steering is None else round(sum(steering.dose.values()), 4),
            loose=judged.loose,
            strict=judged.strict(bound),
            about=judged.about,
            problems=judged.fluency.problems(bound),
            perplexity=_rounded(judged.fluency.perplexity),
        )
        for task, judged in zip(measured.tasks, measured.judged, strict=True)
    ]


def _timing(trial: Trial, measured: Measured) -> Timing:
    return Timing(
        cell=trial.cell,
        tokens=sum(len(judged.reply.token_ids) for judged in measured.judged),
        generation_seconds=round(measured.generation_seconds, 2),
        judging_seconds=round(measured.judging_seconds, 2),
    )


def _plain_values(push: Push) -> dict[str, object]:
    """A push as it is written to a file and read back: lists, no tuples."""
    return {**asdict(push), "layers": list(push.layers), "dose": round(push.dose, 4)}


def _rounded(value: float | None) -> float | None:
    """Two digits are what a person reads; NaN (an empty reply) is no number in JSON."""
    return None if value is None or value != value else round(value, 2)


def _row(name: Condition, measured: Measured, bound: float) -> ConditionScores:
    steering = measured.steering
    if steering is None:
        return summarise(name, measured.judged, bound)
    layer = next(iter(steering.dose))
    return summarise(name, measured.judged, bound, layer=layer, dose=sum(steering.dose.values()))
