"""An instruction: what is asked, in many wordings, and how to tell whether it was done."""

import random
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from saif.core.types import Placement
from saif.core.verifiers import Check
from saif.errors import PresetError
from saif.files import StrictModel, first_problem, read_yaml
from saif.presets.names import check_name

ContentKind = Literal["sentence", "passage"]
"""What an instruction is applied to: one sentence, or a few that tell something."""


class Wording(StrictModel):
    """One way of putting an instruction. `language` is an ISO 639-1 code."""

    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")]
    text: Annotated[str, Field(min_length=3, max_length=300)]


class Instruction(StrictModel):
    """An instruction that any model can be asked to follow.

    wordings: at least six English paraphrases and four translations, so that what answers to all
    of them answers to the instruction and not to one wording.
    """

    id: str
    title: str
    description: str
    contents: ContentKind
    check: Check
    wordings: list[Wording]
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


def read_instruction(path: Path) -> Instruction:
    """The instruction in a YAML file. Raises PresetError naming the field that is wrong."""
    try:
        instruction = Instruction.model_validate(read_yaml(path))
    except ValidationError as error:
        raise PresetError(f"{path.name}: {first_problem(error)}") from error
    except ValueError as error:
        raise PresetError(f"{path.name} can't be read: {error}") from error
    check_name(instruction.id)
    if instruction.id != path.stem:
        raise PresetError(f"{path.name}: id: is '{instruction.id}', but must be the file's name.")
    return instruction
