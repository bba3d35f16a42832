"""Files as everything here writes and reads them: whole or not at all, and strictly."""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from saif.errors import InputError

T = TypeVar("T", bound=BaseModel)


class StrictModel(BaseModel):
    """Base class of what is read from a file: frozen, with no unknown key, no silent conversion and
    no number that JSON lacks."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: a crash leaves the old or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        draft.chmod(0o644)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # gone already, unless something failed


def sha256_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def append_lines(path: Path, records: Sequence[BaseModel]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(record.model_dump_json().encode() + b"\n" for record in records))
        file.flush()
        os.fsync(file.fileno())


def drop_torn_line(path: Path) -> None:
    """Cut off what a kill left of the last line."""
    if path.exists():
        whole = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(whole[0]) + len(whole[1]))


def read_lines(path: Path, kind: type[T]) -> list[T]:
    """A JSON-lines file; nothing if there is none. Raises InputError at a line that is not one."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise InputError(f"{path}, line {number}: {first_problem(error)}") from error
    return found


MAX_YAML_BYTES = 1_000_000


class _UniqueKeys(yaml.SafeLoader):
    """YAML keeps the last of two equal keys without a word; here that is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        for key, n in Counter(str(key.value) for key, _ in node.value).items():
            if n > 1:
                raise ValueError(f"key: '{key}' is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> object:
    """What a YAML file holds. Raises ValueError, in one line, where it is no YAML, holds a key
    twice, is too large or can't be read."""
    try:
        content = path.read_bytes()
        if len(content) > MAX_YAML_BYTES:
            raise ValueError(f"it is larger than {MAX_YAML_BYTES} bytes")
        loader = _UniqueKeys(content)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong and why, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    return f"{where}: {first['msg']}."
