"""An instruction: what is asked, in many wordings, and how to tell whether it was done."""

import random
from typing import Annotated, Literal

from pydantic import Field, model_validator

from saif.core.types import Placement
from saif.core.verifiers import Check
from saif.files import StrictModel

ContentKind = Literal["sentence", "passage"]
"""What an instruction is applied to: one sentence, or a few that tell something."""


class Wording(StrictModel):
    """One way of putting an instruction. `language` is an ISO 639-1 code."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")]
    text: Annotated[str, Field(min_length=3, max_length=300)]


class Instruction(StrictModel):
    """An instruction that any model can be asked to follow."""

    id: str
    title: str
    description: str
    contents: ContentKind
    check: Check
    wordings: list[Wording]
    """At least six English paraphrases and four translations, so that what answers to all of them
    answers to the instruction and not to one wording."""
    examples: Annotated[list[str], Field(min_length=1)]

    @model_validator(mode="after")
    def _enough_wordings(self) -> "Instruction":
        english = sum(wording.language == "en" for wording in self.wordings)
        other = {wording.language for wording in self.wordings} - {"en"}
        if english < 6 or len(other) < 4:
            raise ValueError("wordings: at least 6 in English and 4 in other languages are needed")
        return self

    @property
    def main_wording(self) -> str:
        """The wording a person would type; the prompted column uses it."""
        return self.wordings[0].text

    def draw_wording(self, rng: random.Random) -> str:
        return rng.choice(self.wordings).text


def place(instruction: str, content: str, placement: Placement) -> str:
    """The user's message with the instruction before (`pre`) or after (`post`) the content."""
    parts = (instruction, content) if placement == "pre" else (content, instruction)
    return "\n".join(parts)
