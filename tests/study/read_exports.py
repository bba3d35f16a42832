"""Reading an export back: its checksums, and its votes."""

import hashlib
from pathlib import Path

from saif.study.data.export import SUMS, read_table, sums_of
from saif.study.data.tables import vote_of
from saif.study.participation.votes import Vote


def check_sums(folder: Path) -> None:
    """Every file of an export is there, with its checksum, and no other."""
    assert sums_of(folder) == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != SUMS
    }


def read_votes(path: Path) -> list[Vote]:
    """The main trials' votes of an exported table."""
    rows = read_table(path)
    return [vote_of(row) for row in rows if (row["kind"], row["state"]) == ("main", "voted")]
