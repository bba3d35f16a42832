"""The engine protocol: requests with whole conversations in, decoding steps out.

A remote engine can stand behind the app, the command line and the experiments as well as the local
one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from saif.core.steering import Steering
from saif.decoding import Sampling, Step, StopReason, never
from saif.presets.preset import ModelRef

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One reply to be made. Carries its whole conversation: no reply depends on what an engine
    keeps."""

    messages: tuple[Message, ...]
    steering: Steering | None = None
    sampling: Sampling = Sampling()
    cache_key: str = ""
    """What an engine with a prefix cache is asked to `forget` it by."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished reply. steered: positions of the residual stream that were changed."""

    text: str
    token_ids: tuple[int, ...]
    steered: int
    stop: StopReason


class Engine(Protocol):
    """Whatever can answer a batch of requests together."""

    @property
    def model(self) -> ModelRef:
        """Which model answers."""
        ...

    @property
    def about(self) -> str:
        """How it runs, in a few words for the page: "4bit, 2.2 GB on cuda"."""
        ...

    def stream(
        self, requests: Sequence[Request], *, cancelled: Callable[[], bool] = never
    ) -> Iterator[Step]:
        """Answer all requests in one batch; `RowStep.row` is the request's place in it.

        Raises InputError before the first step if a conversation doesn't fit the model, and
        ModelError if memory runs out; the next request finds the model as it was.
        """
        ...

    def forget(self, cache_key: str | None = None) -> None:
        """Drop whatever is kept under this key, and keep nothing under it that is still to come;
        or drop all that is kept so far."""
        ...


@dataclass(slots=True)
class ReplyBuilder:
    """Collects one row's steps into its reply."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    steered: int = 0
    stop: StopReason | None = None

    def add(self, text: str, token_id: int | None, steered: int, stop: StopReason | None) -> None:
        self.text += text
        if token_id is not None:
            self.token_ids.append(token_id)
        self.steered += steered
        self.stop = stop

    def reply(self) -> Reply:
        return Reply(self.text, tuple(self.token_ids), self.steered, self.stop or "cancelled")


def complete(engine: Engine, requests: Sequence[Request]) -> list[Reply]:
    """All replies at once, in the order of the requests."""
    builders = [ReplyBuilder() for _ in requests]
    for step in engine.stream(requests):
        for row in step:
            builders[row.row].add(row.text, row.token_id, row.steered, row.stop)
    return [builder.reply() for builder in builders]
