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
from saif.study.data.results import GONE, Members, flow_in, members_of
from saif.study.data.tables import TABLES, vote_of
from saif.study.data.unblinding import Look, early_looks_in, is_hidden_in
from saif.study.design.publish import Version
from saif.study.design.study_file import FixedPrompts
from saif.study.participation.votes import Vote
from saif.study.store.store import Store

_DID = (
    "position", "attempt", "kind", "state", "preset", "prompts", "left_arm", "choice", "strength",
    "gen_seed", "shown_ms", "decided_ms", "tokens_left", "tokens_right",
)  # fmt: skip
"""Columns of a trial that tell participants apart: no ids, no hours, no words."""

_NEEDED = {
    "participants": ("participant", "source", "version", "status"),
    "trials": (
        "participant", "trial", *_DID, "right_arm", "retest_of", "attention_check", "void_reason",
    ),
    "turns": ("left_ttft_ms", "right_ttft_ms"),
    "responses": ("participant", "item", "value"),
}  # fmt: skip
"""Tables of an export, and what an analysis reads of them."""


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
    """Counts of `saif.study.data.results.flow`."""
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
    gone = ", ".join(f"'{status}'" for status in GONE)
    with store.database.snapshot() as db:  # all of one moment
        found = {
            name: db.execute(
                f"SELECT {', '.join(columns)} FROM ({TABLES[name][0]}) WHERE participant IN "
                f"(SELECT participant_id FROM participant WHERE status NOT IN ({gone}))",
                {"first": store.study.arms[0]},
            ).fetchall()
            for name, columns in _NEEDED.items()
        }
        counts, looks, hidden = flow_in(db), early_looks_in(db), is_hidden_in(db, store.study)
    return data_of_tables(store.version, found, counts, looks, hidden=hidden, texts=texts)


def from_export(folder: Path, *, format: str | None = None) -> StudyData:
    """What an export holds. format: `csv`, `jsonl` or `parquet`; the first there is if left out.

    Raises StudyError where a file that is needed is missing or is not as it was exported.
    """
    sums = sums_of(folder)
    suffix = format or next(
        (one for one in FORMATS if (folder / f"trials.{one}").exists()), FORMATS[0]
    )
    found = {name: read_table(_intact(folder / f"{name}.{suffix}", sums)) for name in _NEEDED}
    try:
        version = Version.model_validate_json(_intact(folder / "config.json", sums).read_bytes())
        counts = _document(folder / "consort.json", sums)
        looks = [Look(**look) for look in _document(folder / "looks.json", sums)]
    except ValidationError as error:
        raise StudyError(f"config.json is of no study: {first_problem(error)}") from error
    except (ValueError, TypeError) as error:
        raise StudyError(f"{folder} can't be read: {error}") from error
    return data_of_tables(version, found, counts, looks, hidden=False)


def _intact(path: Path, sums: Mapping[str, str]) -> Path:
    """The file. Raises StudyError unless it is as it was exported."""
    if path.name not in sums:
        raise StudyError(f"{path.parent} is no export of a study: it has no {path.name}.")
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != sums[path.name]:
        raise StudyError(
            f"{path.name} is not as it was exported.", hint="Export the study once more."
        )
    return path


def _document(path: Path, sums: Mapping[str, str]) -> Any:
    return json.loads(_intact(path, sums).read_bytes())


def data_of_tables(
    version: Version,
    tables: Mapping[str, Sequence[_Row]],
    flow: Mapping[str, int],
    looks: Sequence[Look],
    *,
    hidden: bool,
    texts: bool = True,
) -> StudyData:
    """From the rows of an export's tables. texts: with what was typed, where they hold it.

    A row that stands there twice is left in, for `saif.study.participation.votes` to refuse.
    """
    number_of = _numbers(tables)
    rows = sorted(
        tables["trials"],
        key=lambda row: (number_of[row["participant"]], row["position"], row["attempt"]),
    )
    votes: defaultdict[str, list[Vote]] = defaultdict(list)
    voids, checks, again = [], [], []
    for row in rows:
        if row["state"] != "voted":
            if row["kind"] == "main":
                voids.append((row["preset"], row["void_reason"]))
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
    typed = {question.id for question in version.study.questions if question.kind == "text"}
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
        voids=voids,
        responses=_responses(tables["responses"], number_of, set() if texts else typed),
        first_token_gaps=[
            abs(left - right)
            for row in tables["turns"]
            if (left := row["left_ttft_ms"]) is not None
            and (right := row["right_ttft_ms"]) is not None
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


def _responses(
    rows: Sequence[_Row], number_of: Mapping[str, str], hidden: set[str]
) -> list[Response]:
    """hidden: questions whose answers are left out."""
    found = []
    for row in rows:
        question, _, trial = row["item"].partition("@")
        known = row["value"] is not None and question not in hidden
        value = json.loads(row["value"]) if known else None
        found.append(Response(number_of[row["participant"]], question, trial, value))
    return found
