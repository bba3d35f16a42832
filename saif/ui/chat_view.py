"""The visitor's conversation as the page keeps it, and how a column of it is shown.

Captions are written here for the eye alone: they never enter a conversation that a model
sees.
"""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from saif.core.types import Placement

if TYPE_CHECKING:
    from saif.chat import ColumnName, ColumnState, Comparison, TurnState

ChatMessage = dict[str, str]
"""What gr.Chatbot takes: {"role", "content"}."""

_SHOWN_WAITING = 2_000
"""Characters of an unanswered message that are shown; it may yet be refused as too long."""

PLACED: dict[Placement, str] = {"pre": "before", "post": "after"}


@dataclass(frozen=True)
class Exchange:
    """One turn as it went. before: what it started from, so that it can be taken back."""

    text: str
    title: str
    placement: Placement
    before: Comparison
    state: TurnState

    @property
    def has_reply(self) -> bool:
        """Whether there is a word, or a model chose to say none."""
        return any(
            column.reply.token_ids or (column.done and column.reply.stop != "cancelled")
            for column in self.state.columns
        )


History = tuple[Exchange, ...]
"""A visitor's conversation; the Chatbots are views of it."""


@dataclass(frozen=True, eq=False)
class CancelToken:
    """Ends a turn under way once `cancel` is set."""

    cancel: threading.Event = field(default_factory=threading.Event)

    def __deepcopy__(self, memo: object) -> CancelToken:
        return self  # a copy could not be cancelled


def column_view(
    history: History, name: ColumnName, *, running: bool = False, waiting: str = "", note: str = ""
) -> list[ChatMessage]:
    """What one column shows. waiting: a message that was sent and has no reply yet; note: why."""
    messages: list[ChatMessage] = []
    for number, exchange in enumerate(history, start=1):
        column = next((c for c in exchange.state.columns if c.name == name), None)
        if column is None:  # the prompted column was off at that turn
            continue
        asked, replied = column.conversation[-2:]
        live = running and number == len(history)
        messages.append({"role": "user", "content": as_shown(asked.text)})
        messages.append({"role": "assistant", "content": as_shown(replied.text) or _EMPTY})
        messages.append(_caption_message(caption(exchange, column, live=live)))
    if waiting:
        messages.append({"role": "user", "content": as_shown(waiting[:_SHOWN_WAITING])})
        messages.append(_caption_message(note or "…"))
    return messages


_EMPTY = "…"
"""Stands where a reply has no words, or none yet."""

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]+`)", re.DOTALL)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")


def as_shown(text: str) -> str:
    """Text for a Chatbot, which renders Markdown. Tags, entities and pictures stay the text they
    were written as: a reply must not be able to change the page or fetch from another host."""
    parts = _CODE.split(text)
    for index in range(0, len(parts), 2):  # the odd ones are code, which is shown as it is
        plain = _TAG.sub("&lt;", _ENTITY.sub("&amp;", parts[index]))
        parts[index] = plain.replace("![", "!\\[")
    return "".join(parts)


def _caption_message(text: str) -> ChatMessage:
    return {
        "role": "assistant",
        "content": f'<span class="reply-caption">{html.escape(text)}</span>',
    }


def caption(exchange: Exchange, column: ColumnState, *, live: bool = False) -> str:
    """What was done to make this reply, and how it ended."""
    steering, steered = exchange.state.steering, column.reply.steered
    placed = f"{PLACED[exchange.placement]} the content"
    tokens = _counted(len(column.reply.token_ids), "token")
    if column.name == "prompted":
        parts = [f"told in words, {placed}", tokens]
    elif column.name == "unsteered":
        parts = ["not steered", tokens]
    elif steering.off:
        parts = ["not steered (strength 0)", tokens]
    elif steered == 0:
        parts = ["not steered yet"]
    else:
        parts = [
            f"{exchange.title}, {placed}",
            steering.where,
            _counted(steering.k, "latent"),
            f"dose {steering.total_dose:.2f}",
            str(steering.schedule),
            f"{_counted(steered, 'token')} steered",
        ]
    return " · ".join(part for part in [*parts, *_ending(exchange, column, live)] if part)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _ending(exchange: Exchange, column: ColumnState, live: bool) -> list[str]:
    """How the reply ended and how fast it came; nothing while it is being written."""
    if live and not column.done:
        return []
    stop = column.reply.stop if column.done else "cancelled"
    how = {"cancelled": "stopped", "length": "cut at the token limit"}.get(stop, "complete")
    state = exchange.state
    if live or column.name != "steered" or state.seconds <= 0:
        return [how]
    return [how, f"{state.steps / state.seconds:.1f} steps/s"]


def without_empty(history: Sequence[Exchange]) -> History:
    """The turns that have something to show: one stopped before its first word is dropped."""
    return tuple(exchange for exchange in history if exchange.has_reply)
