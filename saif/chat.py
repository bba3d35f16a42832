"""Conversations as plain values, and one turn of a comparison.

Each column keeps its own plain history: what the steered column said is never shown to the
unsteered one. Nothing here knows how columns are shown or stored.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from saif.core.steering import Steering
from saif.decoding import Sampling, never
from saif.engine.protocol import Engine, Message, Reply, ReplyBuilder, Request
from saif.errors import InputError
from saif.presets.controls import Controls
from saif.presets.instructions import Instruction, place
from saif.presets.preset import LoadedPreset

ColumnName = Literal["unsteered", "steered", "prompted"]

MAX_MESSAGE_CHARACTERS = 20_000


Conversation = tuple[Message, ...]
"""One column's messages, as this column's model saw them."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The columns of one chat. A value: a turn gives a new one."""

    unsteered: Conversation = ()
    steered: Conversation = ()
    prompted: Conversation = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn of a comparison is made with."""

    text: str
    preset: LoadedPreset
    instruction: Instruction
    controls: Controls
    sampling: Sampling = Sampling()
    with_prompted: bool = False
    cache_key: str = ""


@dataclass(frozen=True, slots=True)
class ColumnState:
    """A column in the middle of a turn: its conversation with the reply so far at the end."""

    name: ColumnName
    conversation: Conversation
    reply: Reply
    done: bool

    @property
    def text(self) -> str:
        """The reply so far."""
        return self.reply.text


@dataclass(frozen=True, slots=True)
class TurnState:
    """Where a turn stands."""

    columns: tuple[ColumnState, ...]
    comparison: Comparison
    """It can be kept at any moment, a stopped turn's too."""
    steering: Steering = field(compare=False)
    """Of the steered column."""
    steps: int
    seconds: float = field(compare=False)

    @property
    def unsteered(self) -> ColumnState:
        return self.columns[0]

    @property
    def steered(self) -> ColumnState:
        return self.columns[1]

    @property
    def prompted(self) -> ColumnState | None:
        """None where the prompted column was not asked for."""
        return self.columns[2] if len(self.columns) > 2 else None

    def __str__(self) -> str:
        """Every column's reply so far under its name."""
        return "\n\n".join(f"[{column.name}]\n{column.text}" for column in self.columns)


def check_message(text: str) -> str:
    """The message, if it can be sent. Raises InputError otherwise."""
    if not text.strip():
        raise InputError("The message is empty.", hint="Type something to send.")
    if len(text) > MAX_MESSAGE_CHARACTERS:
        raise InputError(
            f"The message has {len(text):,} characters; at most {MAX_MESSAGE_CHARACTERS:,} fit.",
            hint="Shorten it.",
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError("The message is not valid text.", hint="Send it as UTF-8.")
    return text


def take_turn(
    engine: Engine,
    comparison: Comparison,
    turn: Turn,
    *,
    cancelled: Callable[[], bool] = never,
) -> Iterator[TurnState]:
    """Answer one message in all columns together, as rows of one batch.

    Yields after every decoding step. All columns share the sampling noise, so at strength 0 the
    steered reply equals the unsteered one. Everything that can be refused is refused before the
    first yield.
    """
    text = check_message(turn.text)
    turn.preset.check_model(engine.model)
    steering = turn.preset.steering_with(turn.controls)
    plain = Message("user", text)
    instructed = place(turn.instruction.main_wording, text, turn.controls.placement)
    asked: dict[ColumnName, Conversation] = {
        "unsteered": (*comparison.unsteered, plain),
        "steered": (*comparison.steered, plain),
    }
    if turn.with_prompted:
        asked["prompted"] = (*comparison.prompted, Message("user", instructed))
    requests = [
        Request(
            messages=messages,
            steering=steering if name == "steered" and not steering.off else None,
            sampling=turn.sampling,
            cache_key=turn.cache_key,
        )
        for name, messages in asked.items()
    ]
    builders = [ReplyBuilder() for _ in asked]
    started = time.perf_counter()
    for number, step in enumerate(engine.stream(requests, cancelled=cancelled), start=1):
        for row in step:
            builders[row.row].add(row.text, row.token_id, row.steered, row.stop)
        columns = tuple(
            ColumnState(
                name,
                (*messages, Message("assistant", builder.text)),
                builder.reply(),
                builder.stop is not None,
            )
            for (name, messages), builder in zip(asked.items(), builders, strict=True)
        )
        after = replace(comparison, **{column.name: column.conversation for column in columns})
        yield TurnState(columns, after, steering, number, time.perf_counter() - started)
