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
    parts = _steered(exchange, column) if column.name == "steered" else _plain(exchange, column)
    parts.append(_ending(exchange, column, live))
    return " · ".join(part for part in parts if part)


def _steered(exchange: Exchange, column: ColumnState) -> list[str]:
    steering = exchange.state.steering
    if steering.off:
        return ["not steered (strength 0)", _tokens(column)]
    if column.reply.steered == 0:
        return ["not steered yet"]
    return [
        f"{exchange.title}, {PLACED[exchange.placement]} the content",
        steering.where,
        f"{steering.k} latent{'s' if steering.k != 1 else ''}",
        f"dose {steering.total_dose:.2f}",
        str(steering.schedule),
        f"{column.reply.steered} token{'s' if column.reply.steered != 1 else ''} steered",
    ]


def _plain(exchange: Exchange, column: ColumnState) -> list[str]:
    if column.name == "prompted":
        return [f"told in words, {PLACED[exchange.placement]} the content", _tokens(column)]
    return ["not steered", _tokens(column)]


def _tokens(column: ColumnState) -> str:
    n = len(column.reply.token_ids)
    return f"{n} token{'s' if n != 1 else ''}"


def _ending(exchange: Exchange, column: ColumnState, live: bool) -> str:
    """How the reply ended and how fast it came; nothing while it is being written."""
    if live and not column.done:
        return ""
    if column.done and column.reply.stop != "cancelled":
        how = "cut at the token limit" if column.reply.stop == "length" else "complete"
    else:
        how = "stopped"
    state = exchange.state
    speed = f"{state.steps / state.seconds:.1f} steps/s" if state.seconds > 0 else ""
    if live or column.name != "steered":
        speed = ""
    return " · ".join(part for part in (how, speed) if part)


def without_last(history: History) -> tuple[History, str]:
    """The conversation without its last turn, and that turn's message."""
    return history[:-1], history[-1].text if history else ""


def without_empty(history: Sequence[Exchange]) -> History:
    """The turns that have something to show: one stopped before its first word is dropped."""
    return tuple(exchange for exchange in history if exchange.has_reply)
