"""Run folder: what an evaluation or a sweep leaves on disk, to be read, resumed and checked.

`run.json` says everything needed to make the run again. `replies.jsonl` has a line per reply and
nothing that differs from one run of the same command to the next, so that two runs can be compared
byte by byte; how long things took goes to `timings.jsonl`. Replies are written a whole cell at a
time, and what a kill leaves of a cell is dropped when the run goes on.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError

from saif.core.types import Placement
from saif.errors import InputError
from saif.files import (
    StrictModel,
    append_lines,
    drop_torn_line,
    first_problem,
    read_lines,
    replace_file,
)
from saif.presets.preset import ModelRef


class RunRecord(StrictModel):
    """Record of a run: what was asked for, and of what."""

    schema_version: Literal[1] = 1
    kind: Literal["evaluate", "sweep"]
    command: str
    model: ModelRef
    quantize: str
    presets: dict[str, str]
    """Preset id -> sha256 of its two files; in a run that gives it its scores, of one placement."""
    contents: dict[str, str]
    """Kind of contents -> sha256 of the texts."""
    placements: list[Placement]
    conditions: list[str]
    over: str | None
    """The parameter that a sweep varies."""
    values: list[int | float | str]
    n: int
    """Texts per cell."""
    seed: int
    """Of sampling and of random latents."""
    temperature: float
    max_new_tokens: dict[str, int]
    versions: dict[str, str]

    def identity(self) -> str:
        """sha256 of all that decides the replies; how the command was typed does not."""
        return hashlib.sha256(self.model_dump_json(exclude={"command"}).encode()).hexdigest()


class Cell(StrictModel):
    """Replies that were made together: one preset, placement and condition, and in a sweep one
    value of what is swept."""

    preset: str
    placement: Placement
    condition: str
    value: int | float | str | None = None

    def __str__(self) -> str:
        parts = [self.preset, self.placement, self.condition]
        return "/".join(parts if self.value is None else [*parts, str(self.value)])


class ReplyRecord(StrictModel):
    """One reply and what the checks say of it."""

    model_config = ConfigDict(
        allow_inf_nan=True
    )  # an empty reply has no perplexity: NaN, then null

    cell: Cell
    content: str
    """The text that the reply should be about."""
    message: str
    """What the model was sent."""
    push: dict[str, Any] | None
    """The spec that steered it (`saif.presets.spec.SteeringSpec` as a dictionary), if any did."""
    text: str
    token_ids: list[int]
    stop: str
    steered: int
    """Positions of the residual stream that were changed, as counted by the hook."""
    dose: float | None
    """Of all layers together."""
    loose: bool
    strict: bool
    about: bool | None
    """Whether it is relevant to its content; None where it wasn't checked."""
    problems: list[str]
    perplexity: float | None
    """Under the unsteered model."""

    @property
    def degenerate(self) -> bool:
        return bool(self.problems)

    @property
    def followed(self) -> bool:
        """Did what was asked, in words that can be read."""
        return self.loose and not self.degenerate


class Timing(StrictModel):
    """How long a cell took: making its replies, then checking them."""

    cell: Cell
    tokens: int
    generation_seconds: float
    judging_seconds: float


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run on disk."""

    path: Path
    record: RunRecord

    @staticmethod
    def open(path: Path, record: RunRecord) -> "RunFolder":
        """Start a run there, or go on with it. Raises InputError if another run lies there."""
        path.mkdir(parents=True, exist_ok=True)
        header = path / "run.json"
        if header.exists() and _read_header(header).identity() != record.identity():
            raise InputError(
                f"{path} holds another run: its settings, presets, texts or versions differ.",
                hint="Give another folder with --out, or remove this one.",
            )
        if not header.exists():
            replace_file(header, (record.model_dump_json(indent=1) + "\n").encode())
        return RunFolder(path, record)

    @staticmethod
    def read(path: Path) -> "RunFolder":
        """A run that is there already. Raises InputError if there is none."""
        header = path / "run.json"
        if not header.is_file():
            raise InputError(
                f"{path} is not a run: there is no run.json in it.",
                hint="Make one with `python -m saif evaluate` or `python -m saif sweep`.",
            )
        return RunFolder(path, _read_header(header))

    @property
    def replies_path(self) -> Path:
        return self.path / "replies.jsonl"

    def resume(self) -> list[Cell]:
        """The cells that are complete, in order. Drops what is left of one that is not."""
        drop_torn_line(self.path / "timings.jsonl")
        if not self.replies_path.exists():
            return []
        with self.replies_path.open("r+b") as file:
            complete: list[Cell] = []
            end = 0
            for cell, lines in groupby(file, _cell_of):
                sizes = [len(line) for line in lines]
                if cell is None or len(sizes) < self.record.n:
                    break
                complete.append(cell)
                end += sum(sizes)
            file.truncate(end)
        return complete

    def append(self, replies: Sequence[ReplyRecord], timing: Timing) -> None:
        """Write one cell, safely on disk when this returns."""
        append_lines(self.replies_path, replies)
        append_lines(self.path / "timings.jsonl", [timing])

    def replies(self) -> list[ReplyRecord]:
        """All replies. Raises InputError at a line that is none."""
        return read_lines(self.replies_path, ReplyRecord)

    def timings(self) -> dict[Cell, Timing]:
        """How long each cell took; the last time, if it was made twice."""
        return {timing.cell: timing for timing in read_lines(self.path / "timings.jsonl", Timing)}

    def cells(self) -> dict[Cell, list[ReplyRecord]]:
        """All replies by cell, in the order of the run."""
        return {
            cell: list(group)
            for cell, group in groupby(self.replies(), key=lambda reply: reply.cell)
        }


def _cell_of(line: bytes) -> Cell | None:
    """The cell of a line of replies.jsonl; None if the line was cut off."""
    try:
        return Cell.model_validate(json.loads(line)["cell"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def _read_header(path: Path) -> RunRecord:
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} can't be read: {first_problem(error)}") from error
