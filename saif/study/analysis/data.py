"""What an analysis is made from, of a live store or of an export: the same rows.

An analysis needs no text that a participant typed, so a live store is read as its de-identified
export would be.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from saif.errors import StudyError
from saif.files import first_problem
from saif.study.data.export import FORMATS, read_table, sums_of
from saif.study.data.results import Members, flow_in, members_of
from saif.study.data.tables import tables_in, vote_of
from saif.study.data.unblinding import Look, early_looks_in, is_hidden
from saif.study.design.publish import Version
from saif.study.design.study_file import FixedPrompts
from saif.study.participation.votes import Vote
from saif.study.store.store import Store

_DID = (
    "position", "attempt", "kind", "state", "preset", "prompts", "left_arm", "choice", "strength",
    "gen_seed", "shown_ms", "decided_ms", "tokens_left", "tokens_right",
)  # fmt: skip
"""Columns of a trial that tell participants apart: no ids, no hours, no words."""

_NEEDED = ("participants", "trials", "turns", "responses")
"""Tables of an export that an analysis reads."""

_Row = Any
"""A row of such a table, by name of column: a mapping, or one of SQLite's."""


@dataclass(frozen=True, slots=True, order=True)
class Participant:
    number: str
    source: str
    version: str
    status: str


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to a question. value: None where it was left empty, or isn't in the data."""

    participant: str
    question: str
    trial: str
    """Of a question asked after each trial; else empty."""
    value: object


@dataclass(frozen=True, slots=True)
class StudyData:
    """Participants have numbers in place of their ids."""

    version: Version
    participants: Sequence[Participant]
    votes: Mapping[str, Sequence[Vote]]
    """Kind of trial -> the votes on such, by participant and position."""
    checks: Sequence[tuple[str, str, str]]
    """(participant, attention check, choice) of every check that was answered."""
    retests: Sequence[tuple[Vote, Vote]]
    """(first, second) votes of one participant on the same two answers."""
    voids: Sequence[tuple[str, str]]
    """(preset, reason) of main trials that were called off."""
    responses: Sequence[Response]
    first_token_gaps: Sequence[float]
    """Milliseconds between the first tokens of the two sides."""
    members: Members
    flow: Mapping[str, int]
    """Counts of `saif.study.data.results.flow_in`."""
    looks: tuple[Look, ...]
    hidden: bool
    """The outcome is not to be shown yet."""

    @property
    def made_up(self) -> bool:
        """Whether all participants are bots."""
        return {one.source for one in self.participants} == {"bot"}

    @property
    def answers_are_shared(self) -> bool:
        """Whether all participants judged the very same answers: fixed messages, and no chance in
        the sampling. Only then does agreement between them mean anything."""
        study = self.version.study
        return isinstance(study.prompts, FixedPrompts) and study.generation.temperature == 0


def from_store(store: Store, *, texts: bool = False) -> StudyData:
    """What is in a store now. texts: with what participants typed."""
    with store.database.snapshot() as db:  # all of one moment
        found = tables_in(db, store.study, "full" if texts else "deidentified", _NEEDED)
        counts, looks, hidden = flow_in(db), early_looks_in(db), is_hidden(db, store.study)
    return data_of_tables(store.version, found, counts, looks, hidden=hidden)


def from_export(folder: Path, *, format: str | None = None) -> StudyData:
    """What an export holds. format: `csv`, `jsonl` or `parquet`; the first there is if left out.

    Raises StudyError where a file that is needed is missing or is not as it was exported.
    """
    sums = sums_of(folder)

    def intact(name: str) -> Path:
        path = folder / name
        if name not in sums:
            raise StudyError(f"{folder} is no export of a study: it has no {name}.")
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != sums[name]:
            raise StudyError(
                f"{name} is not as it was exported.", hint="Export the study once more."
            )
        return path

    suffix = format or next(
        (one for one in FORMATS if (folder / f"trials.{one}").exists()), FORMATS[0]
    )
    found = {name: read_table(intact(f"{name}.{suffix}")) for name in _NEEDED}
    try:
        version = Version.model_validate_json(intact("config.json").read_bytes())
        counts = json.loads(intact("consort.json").read_bytes())
        looks = [Look(**look) for look in json.loads(intact("looks.json").read_bytes())]
    except ValidationError as error:
        raise StudyError(f"config.json is of no study: {first_problem(error)}") from error
    except (ValueError, TypeError) as error:
        raise StudyError(f"{folder} can't be read: {error}") from error
    return data_of_tables(version, found, counts, looks, hidden=False)


def data_of_tables(
    version: Version,
    tables: Mapping[str, Sequence[_Row]],
    flow: Mapping[str, int],
    looks: Sequence[Look],
    *,
    hidden: bool,
) -> StudyData:
    """From the rows of an export's tables.

    A row that stands there twice is left in, for `saif.study.participation.votes` to refuse.
    """
    number_of = _numbers(tables)
    rows = sorted(
        tables["trials"],
        key=lambda row: (number_of[row["participant"]], row["position"], row["attempt"]),
    )
    votes: defaultdict[str, list[Vote]] = defaultdict(list)
    checks, again = [], []
    for row in rows:
        if row["state"] != "voted":
            continue
        vote = vote_of(row, number_of[row["participant"]])
        votes[row["kind"]].append(vote)
        if row["kind"] == "attention":
            checks.append((vote.participant, row["attention_check"], vote.choice))
        if row["kind"] == "retest":
            again.append((row["retest_of"], vote))
    at = {(vote.participant, vote.position): vote for vote in votes["main"]}
    people = sorted(
        Participant(number_of[row["participant"]], row["source"], row["version"], row["status"])
        for row in tables["participants"]
    )
    return StudyData(
        version=version,
        participants=people,
        votes=votes,
        checks=checks,
        retests=[
            (at[vote.participant, place], vote)
            for place, vote in again
            if (vote.participant, place) in at
        ],
        voids=[
            (row["preset"], row["void_reason"])
            for row in rows
            if row["state"] != "voted" and row["kind"] == "main"
        ],
        responses=_responses(tables["responses"], number_of),
        first_token_gaps=[
            abs(left - right)
            for left, right in (
                (row["left_ttft_ms"], row["right_ttft_ms"]) for row in tables["turns"]
            )
            if left is not None and right is not None
        ],
        members=members_of(version.study, {one.number: one.status for one in people}, checks),
        flow=flow,
        looks=tuple(looks),
        hidden=hidden,
    )


def _numbers(tables: Mapping[str, Sequence[_Row]]) -> dict[str, str]:
    """Participant's id -> number, given by what each one did.

    So no id gets into an analysis, and neither new ids nor another order of the rows change a
    digit of anything that is added up or drawn at random.
    """
    did: defaultdict[str, list[str]] = defaultdict(list)
    for row in tables["participants"]:
        did[row["participant"]].append(row["status"])
    for row in tables["trials"]:
        did[row["participant"]].append(repr([row[name] for name in _DID]))
    ordered = sorted(did, key=lambda who: sorted(did[who]))
    return {who: f"{number:05d}" for number, who in enumerate(ordered, 1)}


def _responses(rows: Sequence[_Row], number_of: Mapping[str, str]) -> list[Response]:
    found = []
    for row in rows:
        question, _, trial = row["item"].partition("@")
        value = None if row["value"] is None else json.loads(row["value"])
        found.append(Response(number_of[row["participant"]], question, trial, value))
    return found
