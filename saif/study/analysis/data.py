"""The rows that an analysis is made from, of a live store or of an export: the same rows.

An analysis needs no text that a participant typed, so a live store is read as its de-identified
export would be.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from saif.errors import StudyError
from saif.files import first_problem
from saif.study.data.export import FORMATS, read_table, sums_of
from saif.study.data.results import flow_in
from saif.study.data.tables import Profile, Row, tables_in
from saif.study.data.unblinding import Look, early_looks_in, is_hidden_in
from saif.study.design.publish import Version
from saif.study.store.store import Store

_NEEDED = ("participants", "trials", "turns", "responses")
_DO_NOT_COUNT = {"participant", "trial", "item", "version", "created_at", "started_at", "voted_at",
                 "answered_at", "plan_seed", "reason", "value"}  # fmt: skip
"""Columns that say who or when, or that not every profile shows."""


@dataclass(frozen=True, slots=True)
class StudyData:
    """tables: those of an export that are needed. flow: counts of `saif.study.data.results.flow`.
    hidden: the outcome is not to be shown yet."""

    version: Version
    tables: Mapping[str, Sequence[Row]]
    flow: Mapping[str, int]
    looks: tuple[Look, ...]
    hidden: bool


def from_store(store: Store, *, profile: Profile = "deidentified") -> StudyData:
    """What is in a store now."""
    with store.database.snapshot() as db:  # all of one moment
        found = tables_in(db, store.study, profile)
        counts, looks, hidden = flow_in(db), early_looks_in(db), is_hidden_in(db, store.study)
    return StudyData(
        version=store.version,
        tables=numbered({name: found[name] for name in _NEEDED}),
        flow=counts,
        looks=tuple(looks),
        hidden=hidden,
    )


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
    return StudyData(version, numbered(found), counts, tuple(looks), hidden=False)


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


def numbered(found: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """The rows with numbers in place of participants' ids, given by what each one did.

    So no id gets into an analysis, and neither new ids nor another order of the rows change a
    digit of anything that is drawn at random.
    """
    did: dict[str, list[str]] = {str(row["participant"]): [] for row in found["participants"]}
    for name in ("participants", "trials", "responses"):
        for row in found[name]:
            what = {key: row[key] for key in row if key not in _DO_NOT_COUNT}
            item = str(row.get("item", "")).partition("@")[0]
            told = json.dumps([name, item, what], sort_keys=True)
            did.setdefault(str(row["participant"]), []).append(told)
    ordered = sorted(did, key=lambda who: sorted(did[who]))
    number_of = {who: f"{number:05d}" for number, who in enumerate(ordered, 1)}
    made: dict[str, list[Row]] = {}
    for name, rows in found.items():
        renamed: list[Row] = [
            {**row, "participant": number_of.get(str(row["participant"]), "")} for row in rows
        ]
        made[name] = sorted(renamed, key=_place)
    return made


def _place(row: Row) -> tuple[str, int, int, str]:
    """Where a row of any table belongs: by participant, then as it was shown."""
    position, attempt = row.get("position"), row.get("attempt")
    return (
        str(row["participant"]),
        int(position) if position is not None else 0,
        int(attempt) if attempt is not None else 0,
        str(row.get("item", row.get("turn", ""))),
    )
