"""The files of a remote copy: JSON lines that hold rows of the store as they were at one moment.

A segment begins with a head and ends with a checksum, so one that was torn off is known and left
out. A *part* holds the participants who changed since the one before, each with all their rows, and
what was added to the audit trail; a *whole* segment holds everything and replaces all before it.
Names sort in the order in which segments were written.
"""

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from saif.errors import StudyError
from saif.study.store import audit
from saif.study.store.settings import SHRED_DUE, TROUBLES

NAME = re.compile(r"\d{12}-(part|whole)\.jsonl")

FORMAT = 1

OWNED = {  # table -> its rows of one participant, in an order in which they can be put back
    "participant": "SELECT * FROM participant WHERE participant_id = ?",
    "consent": "SELECT * FROM consent WHERE participant_id = ?",
    "trial": "SELECT * FROM trial WHERE participant_id = ? ORDER BY position, attempt",
    "turn": "SELECT turn.* FROM turn JOIN trial USING(trial_id) WHERE participant_id = ?",
    "generation": "SELECT generation.* FROM generation JOIN turn USING(turn_id) "
    "JOIN trial USING(trial_id) WHERE participant_id = ?",
    "vote": "SELECT vote.* FROM vote JOIN trial USING(trial_id) WHERE participant_id = ?",
    "response": "SELECT * FROM response WHERE participant_id = ?",
    "event": "SELECT * FROM event WHERE participant_id = ?",
    "withdrawal": "SELECT * FROM withdrawal WHERE participant_id = ?",
}
SHARED = {  # table -> its rows, which every segment holds
    "study_version": "SELECT * FROM study_version",
    "setting": f"SELECT * FROM setting WHERE name NOT IN ('{SHRED_DUE}', '{TROUBLES}')",
    "cell_pool": "SELECT * FROM cell_pool",
}

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]


@dataclass(frozen=True, slots=True)
class Head:
    """up_to: the last mark of the outbox that it covers. audit_seq, audit_sha: the last row of the
    audit trail in it, by which a copy of other data is known."""

    format: int
    study: str
    whole: bool
    up_to: int
    audit_seq: int
    audit_sha: str

    @property
    def name(self) -> str:
        return f"{self.up_to:012d}-{'whole' if self.whole else 'part'}.jsonl"


@dataclass(frozen=True, slots=True)
class Segment:
    """participants: id -> table -> rows. trail: rows of the audit trail."""

    head: Head
    shared: Tables
    participants: dict[str, Tables]
    trail: Rows


class TornError(ValueError):
    """A segment that was not written to its end, or is none."""


def take(
    db: sqlite3.Connection,
    study: str,
    up_to: int,
    *,
    participants: Iterable[str] | None = None,
    trail_after: int = 0,
) -> Segment:
    """A segment of what the store holds in this snapshot. participants: those of a part; None for a
    whole one."""
    chosen = (
        [row[0] for row in db.execute("SELECT participant_id FROM participant")]
        if participants is None
        else participants
    )
    last = audit.head(db)
    return Segment(
        Head(FORMAT, study, participants is None, up_to, last.seq, last.sha),
        {table: _rows(db, sql) for table, sql in SHARED.items()},
        {
            name: {table: _rows(db, sql, name) for table, sql in OWNED.items()}
            for name in sorted(set(chosen))
        },
        _rows(db, "SELECT * FROM audit WHERE seq > ? ORDER BY seq", trail_after),
    )


def _rows(db: sqlite3.Connection, sql: str, *values: object) -> Rows:
    return [dict(row) for row in db.execute(sql, values)]


def write(segment: Segment) -> bytes:
    lines = [_line({"head": asdict(segment.head)}), _line({"shared": segment.shared})]
    lines += [
        _line({"participant": name, "tables": tables})
        for name, tables in segment.participants.items()
    ]
    lines += [_line({"trail": row}) for row in segment.trail]
    body = b"".join(lines)
    return body + _line({"end": len(lines), "sha256": hashlib.sha256(body).hexdigest()})


def read(content: bytes) -> Segment:
    """Raises TornError where it was not written to its end, StudyError where a newer saif did."""
    body, newline, end = content.rstrip(b"\n").rpartition(b"\n")
    body += newline
    try:
        told = json.loads(end)["sha256"]
        if not content.endswith(b"\n") or told != hashlib.sha256(body).hexdigest():
            raise ValueError("the checksum does not fit")
        lines = [json.loads(line, object_hook=_blob) for line in body.splitlines()]
        head = Head(**lines[0]["head"])
        if head.format > FORMAT:
            raise StudyError("The remote copy was made by a newer version of saif.")
        return Segment(
            head,
            lines[1]["shared"],
            {line["participant"]: line["tables"] for line in lines if "participant" in line},
            [line["trail"] for line in lines if "trail" in line],
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise TornError(str(error)) from error


def folded(segments: Iterable[Segment]) -> Segment | None:
    """Segments in order as one whole: each participant as they were last, and all of the trail."""
    last: Segment | None = None
    participants: dict[str, Tables] = {}
    trail: dict[int, dict[str, Any]] = {}
    for last in segments:
        participants |= last.participants
        trail |= {row["seq"]: row for row in last.trail}
    if last is None:
        return None
    return Segment(last.head, last.shared, participants, [trail[seq] for seq in sorted(trail)])


def rows_of(segment: Segment) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row with its table, in an order that keeps all references whole."""
    for table in SHARED:
        yield from ((table, row) for row in segment.shared[table])
    for tables in segment.participants.values():
        for table in OWNED:
            yield from ((table, row) for row in tables[table])
    yield from (("audit", row) for row in segment.trail)


def _line(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, ensure_ascii=False, default=_hex).encode() + b"\n"


def _hex(value: object) -> dict[str, str]:
    assert isinstance(value, bytes), "a row holds nothing else that JSON lacks"
    return {"hex": value.hex()}


def _blob(found: dict[str, Any]) -> Any:
    return bytes.fromhex(found["hex"]) if found.keys() == {"hex"} else found
