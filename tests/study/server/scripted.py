"""An engine that says what it is told to: a text for each row, a piece at each step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from saif.decoding import RowStep, Step, StopReason, never
from saif.engine.protocol import Request
from saif.presets.preset import ModelRef


@dataclass
class ScriptedEngine:
    """pieces: for each row, its texts step by step. steered: whether a steered row says so. leaks:
    whether the others do as well. ends: how a row ends."""

    model: ModelRef
    pieces: Sequence[Sequence[str]]
    steered: bool = True
    leaks: bool = False
    ends: StopReason | None = "end"
    about: str = "scripted"
    asked: list[Sequence[Request]] = field(default_factory=list)

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        self.asked.append(requests)
        n_steps = max(map(len, self.pieces)) + 1
        for number in range(n_steps):
            step = []
            for row, request in enumerate(requests):
                texts = self.pieces[row]
                if number > len(texts):
                    continue
                ended = number == len(texts)
                stop: StopReason | None = self.ends if ended else None
                if cancelled():
                    stop = "cancelled"
                # A step is steered before its token is chosen, so the first one always is.
                reached = self.steered and (number == 0 or not ended)
                counted = int((request.steering is not None or self.leaks) and reached)
                text = "" if ended else texts[number]
                step.append(RowStep(row, None if ended else number, text, counted, stop))
            yield tuple(step)
            if cancelled():
                return
