"""The grades that an LLM judge gave the replies of a run, and how far the verifier agrees.

`grades.jsonl` lies in the run's folder, a line per reply, the grades of one judge. It can be read
without the judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from saif.core.statistics import Kappa, cohens_kappa
from saif.errors import InputError
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord, RunFolder
from saif.files import StrictModel, read_lines, replace_file

Grade = Literal["A", "B", "C"]
"""A: the instruction was followed, B: partly, C: not. strict is A, loose is A or B."""


class GradeRecord(StrictModel):
    """The judge's grade of one reply, a line of grades.jsonl."""

    cell: Cell
    index: Annotated[int, Field(ge=0)]
    """The reply's place in its cell."""
    grade: Grade | None
    """None if the judge gave none, twice."""
    judge: str
    asked: str
    """sha256 of what was asked of which endpoint; the cached answer has that name."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Judge and verifier on `n` replies; κ is None where it is undefined."""

    n: int
    loose: Kappa | None
    strict: Kappa | None


@dataclass(frozen=True, slots=True)
class RunAgreement:
    """Judge and verifier on a run. Replies without a grade count nowhere but in `ungraded`."""

    judge: str
    ungraded: int
    overall: Agreement
    per_preset: dict[str, Agreement]


def read_grades(run: RunFolder) -> list[GradeRecord]:
    """The grades of a run, none if it was never graded. Raises InputError at a broken line."""
    return read_lines(run.path / "grades.jsonl", GradeRecord)


def write_grades(run: RunFolder, grades: Sequence[GradeRecord]) -> None:
    """Replace the grades of a run, all at once."""
    lines = "".join(grade.model_dump_json() + "\n" for grade in grades)
    replace_file(run.path / "grades.jsonl", lines.encode())


def agreement_with_verifier(run: RunFolder) -> RunAgreement | None:
    """Cohen's κ between judge and verifier, loose and strict; None if no judge saw the run.

    Raises InputError if the grades don't belong to the run's replies.
    """
    grades = read_grades(run)
    if not grades:
        return None
    cells = run.cells()
    pairs: list[tuple[ReplyRecord, Grade]] = []
    for line in grades:
        replies = cells.get(line.cell, [])
        if line.index >= len(replies) or line.judge != grades[0].judge:
            raise InputError(
                f"{run.path / 'grades.jsonl'} doesn't belong to the replies beside it.",
                hint="Remove it and grade the run again.",
            )
        if line.grade is not None:
            pairs.append((replies[line.index], line.grade))
    presets = dict.fromkeys(line.cell.preset for line in grades)
    return RunAgreement(
        judge=grades[0].judge,
        ungraded=len(grades) - len(pairs),
        overall=_agreement(pairs),
        per_preset={
            preset: _agreement([pair for pair in pairs if pair[0].cell.preset == preset])
            for preset in presets
        },
    )


def _agreement(pairs: Sequence[tuple[ReplyRecord, Grade]]) -> Agreement:
    replies, grades = [reply for reply, _ in pairs], [grade for _, grade in pairs]
    return Agreement(
        n=len(pairs),
        loose=cohens_kappa([one.loose for one in replies], [grade != "C" for grade in grades]),
        strict=cohens_kappa([one.strict for one in replies], [grade == "A" for grade in grades]),
    )
