"""The questions of a study: the vote on two answers, and what is asked beside and after it."""

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from saif.errors import InputError
from saif.files import StrictModel

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Label = Annotated[str, Field(min_length=1, max_length=120)]
Id = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
"""A column in the export, so letters, digits and underscores."""

When = Literal["start", "trial", "end"]
"""Asked once before the first trial, after every main trial's vote, or once after the last."""

MAX_ANSWER = 5000
"""Characters of a free-text answer."""


class StudyPart(StrictModel):
    """Base class of every part of a study file."""


def refuse_twice(field: str, names: Iterable[str]) -> None:
    """Raises ValueError naming the first name that stands there twice."""
    twice = next((name for name, n in Counter(names).items() if n > 1), None)
    if twice is not None:
        raise ValueError(f"{field}: '{twice}' is given twice")


class Preference(StudyPart):
    """The vote: which of the two answers is better? tie and both_bad: offer these, too.

    strength: labels from slightly to clearly, asked of whoever chose a side; empty for none.
    """

    text: Text
    tie: bool = True
    both_bad: bool = True
    strength: Annotated[list[Label], Field(max_length=7)] = Field(default_factory=list)

    @property
    def choices(self) -> tuple[str, ...]:
        return ("L", "R", *["tie"] * self.tie, *["both_bad"] * self.both_bad, "skip")


class _Asked(StudyPart):
    id: Id
    text: Text
    when: When
    required: bool = True


class ChoiceQuestion(_Asked):
    """One of some options. accept: of a question at the start; who chooses another is told that
    they don't fit, and is screened out."""

    kind: Literal["choice"]
    options: Annotated[list[Label], Field(min_length=2, max_length=20)]
    accept: Annotated[list[Label], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> "ChoiceQuestion":
        refuse_twice("options", self.options)
        if self.accept is None:
            return self
        if self.when != "start" or not self.required:
            raise ValueError("accept: only for a required question with `when: start`")
        if not set(self.accept) < set(self.options):
            raise ValueError("accept: must be some of the options, and not all of them")
        return self

    def screens_out(self, value: object) -> bool:
        """Whether who answers so doesn't fit."""
        return self.accept is not None and value not in self.accept

    def accepts(self, value: object) -> bool:
        return value in self.options


class LikertQuestion(_Asked):
    """A rating from 1 to `points`; low and high say what the ends mean."""

    kind: Literal["likert"]
    points: Annotated[int, Field(ge=2, le=11)]
    low: Label
    high: Label

    def accepts(self, value: object) -> bool:
        return type(value) is int and 1 <= value <= self.points


class TextQuestion(_Asked):
    """Free text of up to `max_length` characters."""

    kind: Literal["text"]
    max_length: Annotated[int, Field(ge=1, le=MAX_ANSWER)] = 1000

    def accepts(self, value: object) -> bool:
        return is_text(value) and len(str(value)) <= self.max_length


class GuessQuestion(_Asked):
    """Asked once at the end: on which side was the changed answer of the last main trial? Bang's
    blinding index is computed from it."""

    kind: Literal["guess"]
    when: Literal["end"] = "end"

    def accepts(self, value: object) -> bool:
        return value in ("L", "R", "unsure")


Question = Annotated[
    ChoiceQuestion | LikertQuestion | TextQuestion | GuessQuestion, Field(discriminator="kind")
]


def is_text(value: object) -> bool:
    """Whether it is a text that can be stored: half of a surrogate pair, which a page may send, is
    no character and has no UTF-8."""
    return isinstance(value, str) and value == value.encode("utf-8", "ignore").decode()


def check_answer(question: Question, value: object) -> None:
    """Raises InputError where `value` is no answer to the question; None is one if it need not be
    answered."""
    if not question.accepts(value) and (value is not None or question.required):
        raise InputError(f"That is no answer to '{question.id}'.")
