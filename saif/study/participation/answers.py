"""Both answers to a trial's message, generated as two rows of one batch and released together.

Lock step: nothing of one answer is released before the other has something to show, and from then
on both are released step by step. So neither the wait nor the pace tells which answer is which.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from saif.core.steering import Steering
from saif.decoding import Sampling, never
from saif.engine.protocol import Engine, Message, ReplyBuilder, Request, complete
from saif.errors import ModelError, SteeringError, StudyError
from saif.presets.controls import Controls
from saif.presets.instructions import place
from saif.presets.library import Library
from saif.study.design.check import uses_of
from saif.study.design.study_file import Study
from saif.study.participation.steps import Answer
from saif.study.store.trials import Exchange, Trial

Side = Literal["L", "R"]
EMPTY_FROM_ATTEMPT = 3
"""A trial that was issued so often is shown even where an answer is empty: without sampling, it
would be empty for ever, and saying nothing is an answer that can be voted on."""


class EmptyAnswerError(StudyError):
    """An answer ended before it had any text, so there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Released:
    """What both answers have grown by."""

    left: str
    right: str


class AnswerGenerator:
    """Generates the answers of a study's trials with one engine. Reads all presets at once, and
    raises PresetError where one doesn't fit the model, before anyone takes part."""

    def __init__(self, study: Study, library: Library, engine: Engine) -> None:
        self.engine = engine
        self._study = study
        self._library = library
        self._uses = {use.label: use for use in uses_of(study)}
        names = {use.preset for use in self._uses.values()}
        self._presets = {name: library.preset(study.model, name) for name in names}
        for preset in self._presets.values():
            preset.check_model(engine.model)

    def pair(
        self,
        trial: Trial,
        history: Sequence[Exchange],
        message: str,
        *,
        cancelled: Callable[[], bool] = never,
    ) -> "AnswerPair":
        """The answers to `message` after the exchanges in `history`; iterate to generate them."""
        messages = [*(exchange.message for exchange in history), message]
        left = self._request(trial, trial.left, messages, [one.left for one in history])
        right = self._request(trial, trial.right, messages, [one.right for one in history])
        return AnswerPair(self.engine, trial, (left, right), cancelled)

    def _request(
        self, trial: Trial, arm: str, messages: Sequence[str], replies: Sequence[str]
    ) -> Request:
        """One arm's request, with its own history."""
        use = self._study.other if arm == "other" else self._uses.get(trial.preset or "")
        assert use is not None, "the study file was checked, and an attention check has no answers"
        steering = None
        if arm in ("steered", "other"):
            controls = Controls(placement=use.placement, strength=use.strength)
            steering = self._presets[use.preset].steering_with(controls)
        if arm == "prompted":
            preset = self._presets[use.preset].preset
            wording = self._library.instruction(preset.instruction).main_wording
            messages = [place(wording, message, use.placement) for message in messages]
        conversation = [Message("user", messages[0])]
        for reply, message in zip(replies, messages[1:], strict=True):
            conversation += [Message("assistant", reply), Message("user", message)]
        wanted = self._study.generation.model_dump(exclude={"quantize"})
        sampling = Sampling(**wanted, seed=trial.gen_seed)
        return Request(messages=tuple(conversation), steering=steering, sampling=sampling)


class AnswerPair:
    """Both answers to one message. Iterating yields what is released; `answers` has both whole
    at the end. Raises EmptyAnswerError, ModelError or SteeringError where either answer fails."""

    def __init__(
        self,
        engine: Engine,
        trial: Trial,
        requests: Sequence[Request],
        cancelled: Callable[[], bool],
    ) -> None:
        self._engine, self._trial = engine, trial
        self._requests, self._cancelled = requests, cancelled
        self._builders = [ReplyBuilder() for _ in requests]
        self._released_at: float | None = None
        self._began = self._ended = 0.0
        self._text_at: dict[int, int] = {}

    def __iter__(self) -> Iterator[Released]:
        self._began = time.perf_counter()
        shown = [0, 0]
        steps = self._engine.stream(self._requests, cancelled=self._cancelled)
        for number, step in enumerate(steps, start=1):
            for row in step:
                builder = self._builders[row.row]
                builder.add(row.text, row.token_id, row.steered, row.stop)
                if builder.text.strip():
                    self._text_at.setdefault(row.row, number)
            if not all(self._showable(place) for place in range(len(self._builders))):
                continue
            if self._released_at is None:
                self._released_at = time.perf_counter()
            grown = [builder.text[n:] for builder, n in zip(self._builders, shown, strict=True)]
            shown = [len(builder.text) for builder in self._builders]
            yield Released(*grown)
        self._ended = time.perf_counter()
        # What was steered was steered, and what was not was not.
        for builder, request in zip(self._builders, self._requests, strict=True):
            if builder.stop in (None, "cancelled"):
                raise ModelError("The answer was not finished.")
            if (builder.steered > 0) != (request.steering is not None):
                raise SteeringError("Steering did not reach the answer that it was meant for.")

    def _showable(self, place: int) -> bool:
        """Whether an answer has text. Raises EmptyAnswerError where it has ended without any."""
        if place in self._text_at:
            return True
        if self._builders[place].stop not in ("end", "length"):
            return False
        if self._trial.attempt < EMPTY_FROM_ATTEMPT:
            raise EmptyAnswerError("An answer ended before it had any text.")
        return True

    @property
    def is_row_independent(self) -> bool:
        """Whether each answer, made alone, is token for token what it was beside the other."""
        return all(
            complete(self._engine, [request])[0].token_ids == builder.reply().token_ids
            for request, builder in zip(self._requests, self._builders, strict=True)
        )

    def answers(self) -> list[Answer]:
        """Both answers as they are stored, left first."""
        return [self._answer(0, "L", self._trial.left), self._answer(1, "R", self._trial.right)]

    def _answer(self, place: int, side: Side, arm: str) -> Answer:
        """text_at_step: when it had text of its own; both were shown from the later of the two."""
        reply, request = self._builders[place].reply(), self._requests[place]
        return Answer(
            arm=arm,
            side=side,
            text=reply.text,
            n_tokens=len(reply.token_ids),
            stop=reply.stop,
            ttft_ms=self._ms(self._released_at),
            total_ms=self._ms(self._ended),
            details={
                "model": self._engine.model.id,
                "engine": self._engine.about,
                "steered_positions": reply.steered,
                "applied": _applied(request.steering) if request.steering else None,
                "sampling": asdict(request.sampling),
                "text_at_step": self._text_at.get(place),
            },
        )

    def _ms(self, at: float | None) -> float | None:
        return None if at is None else round(1000 * (at - self._began), 1)


def _applied(steering: Steering) -> dict[str, object]:
    """How an answer was steered, as it is stored: latents are those of the first layer."""
    return {
        "layers": steering.layers,
        "k": steering.k,
        "strength": steering.strength,
        "dose": steering.total_dose,
        "span": steering.span,
        "latents": steering.latents[steering.layers[0]],
        "shape": asdict(steering.schedule),
    }
