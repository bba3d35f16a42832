"""A study's data as files that a spreadsheet, R or Python reads, and the way back.

CSV, JSON lines and Parquet hold the same cells. In CSV, a text that a spreadsheet would take for a
formula gets an apostrophe in front, and so does one that begins with an apostrophe itself; an empty
text is a lone apostrophe and a missing one is empty. Nothing is lost, and `read_table` undoes it.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saif.errors import StudyError
from saif.files import replace_file
from saif.study.data.comparator import comparator
from saif.study.data.results import flow_in
from saif.study.data.tables import TABLES, Column, Profile, Row, Value, codebook, tables_in
from saif.study.data.unblinding import early_looks_in
from saif.study.design.publish import canonical
from saif.study.store.store import Store

SUMS = "SHA256SUMS"

_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
"""What a spreadsheet may run, when a text begins with it (OWASP, CSV injection)."""


def export(store: Store, folder: Path, *, profile: Profile = "deidentified", actor: str) -> Path:
    """Write all tables in all formats, the codebook, the counts, the study itself, scripts that
    redo the main estimate, and, where texts may be shown, what LLM Comparator reads.

    The folder is new or empty. Who made the export is noted in the audit trail, with the checksum
    of its checksums. Returns the file of checksums. Raises StudyError where the folder holds
    something.
    """
    check_new(folder)
    with store.database.snapshot() as db:  # all of one moment
        found = tables_in(db, store.study, profile)
        counts, looks = flow_in(db), early_looks_in(db)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in found.items():
        for suffix, (write, _) in _CODECS.items():
            replace_file(folder / f"{name}.{suffix}", write(rows, TABLES[name][1]))
    viewed = comparator(store.study, found)
    documents: dict[str, object] = {
        "codebook.json": codebook(),
        "consort.json": counts,
        "looks.json": [asdict(look) for look in looks],
        "config.json": json.loads(canonical(store.version)),
        "dataset_description.json": _description(store, profile),
        **({} if viewed is None else {"comparator.json": viewed}),
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=1, ensure_ascii=False)
        replace_file(folder / name, f"{text}\n".encode())
    replace_file(folder / "codebook.md", _codebook_page().encode())
    for name in ("analysis.py", "analysis.R"):
        script = Path(__file__).parent / "replication" / name
        replace_file(folder / name, script.read_bytes())
    sums = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
    )
    replace_file(folder / SUMS, sums.encode())
    with store.database.transaction() as db:
        payload = {"profile": profile, "sums": hashlib.sha256(sums.encode()).hexdigest()}
        store.note(db, None, "export", folder.name, payload, actor=actor)
    return folder / SUMS


def check_new(folder: Path) -> None:
    """Raises StudyError where a folder holds something already."""
    if folder.exists() and any(folder.iterdir()):
        raise StudyError(f"{folder} is not empty.", hint="Give a folder that is new.")


def sums_of(folder: Path) -> dict[str, str]:
    """File name -> sha256 of every file of an export. Raises StudyError where there is none."""
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{folder} is no export: {error}") from error
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}


def read_table(path: Path) -> list[Row]:
    """The rows of an exported table, from whichever format the file has. Raises StudyError."""
    if path.stem not in TABLES or path.suffix[1:] not in _CODECS:
        raise StudyError(f"{path.name} is not a table of an export.")
    columns = TABLES[path.stem][1]
    try:
        rows = _CODECS[path.suffix[1:]][1](path.read_bytes(), columns)
        return [{column.name: row[column.name] for column in columns} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise StudyError(f"{path.name} can't be read: {error}") from error


def guarded(value: Value) -> str:
    """A cell of a CSV file; see the module's docstring."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    return f"'{value}" if not value or value.startswith(_DANGEROUS) else value


def _unguarded(cell: str, column: Column) -> Value:
    if cell == "":
        return None
    if column.kind != "text":
        return int(cell) if column.kind == "integer" else float(cell)
    return cell[1:] if cell.startswith("'") else cell


def _write_csv(rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # RFC 4180, so with \r\n
    writer.writerow([column.name for column in columns])
    writer.writerows([guarded(row[column.name]) for column in columns] for row in rows)
    return text.getvalue().encode()


def _read_csv(content: bytes, columns: Sequence[Column]) -> list[Row]:
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    if header != [column.name for column in columns]:
        raise ValueError("the columns are not those of an export")
    return [
        {column.name: _unguarded(cell, column) for column, cell in zip(columns, row, strict=True)}
        for row in rows
    ]


def _write_jsonl(rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
    lines = [{column.name: row[column.name] for column in columns} for row in rows]
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def _read_jsonl(content: bytes, _: Sequence[Column]) -> list[Row]:
    return [json.loads(line) for line in content.split(b"\n") if line]


def _write_parquet(rows: Sequence[Row], columns: Sequence[Column]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}
    schema = pa.schema(
        pa.field(column.name, kinds[column.kind], metadata={"meaning": column.meaning})
        for column in columns
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink)
    return sink.getvalue()


def _read_parquet(content: bytes, _: Sequence[Column]) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(io.BytesIO(content)).to_pylist()
    return rows


_Write = Callable[[Sequence[Row], Sequence[Column]], bytes]
_Read = Callable[[bytes, Sequence[Column]], list[Row]]
_CODECS: dict[str, tuple[_Write, _Read]] = {
    "csv": (_write_csv, _read_csv),
    "jsonl": (_write_jsonl, _read_jsonl),
    "parquet": (_write_parquet, _read_parquet),
}
FORMATS = tuple(_CODECS)


def _description(store: Store, profile: Profile) -> dict[str, Any]:
    """What Psych-DS asks of a data set; schema.org's names."""
    variables = sorted({column.name for _, columns in TABLES.values() for column in columns})
    return {
        "@context": "https://schema.org/",
        "@type": "Dataset",
        "name": store.study.title,
        "description": f"Study {store.study.id}, version {store.version.number} "
        f"(sha256 {store.version.id}), profile {profile}.",
        "variableMeasured": variables,
    }


def _codebook_page() -> str:
    parts = ["# Codebook"]
    for name, (_, columns) in TABLES.items():
        parts += [f"\n## {name}\n", "| column | type | meaning |", "|---|---|---|"]
        for column in columns:
            told = [f"{column.meaning} [{column.unit}]" if column.unit else column.meaning]
            told += [f"`{level}` {meaning}" for level, meaning in (column.levels or {}).items()]
            parts.append(f"| {column.name} | {column.kind} | {'; '.join(told)} |")
    return "\n".join([*parts, "", "Missing values are empty in CSV, null elsewhere.", ""])
