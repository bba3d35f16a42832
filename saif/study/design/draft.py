"""A study file to start from: the example that ships, with a name of one's own."""

import json
import re
from pathlib import Path

from saif.errors import StudyError
from saif.presets.library import SHIPPED
from saif.study.design.study_file import read_study

EXAMPLE = SHIPPED / "studies" / "example.yaml"


def write_draft(path: Path, study_id: str, title: str) -> None:
    """Write the file, with all the comments of the example. Raises StudyError where something of
    that name is there already, or the id or the title can't be used."""
    text = EXAMPLE.read_text("utf-8")
    # A JSON string is one in YAML, too, whatever the title holds.
    for field, value in (("id", study_id), ("title", title)):
        line = f"{field}: {json.dumps(value, ensure_ascii=False)}"
        text = re.sub(rf"^{field}: .*$", lambda _, line=line: line, text, count=1, flags=re.M)  # type: ignore[misc]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise StudyError(
            f"There is a '{path}' already.", hint="Give another name; nothing is overwritten."
        ) from error
    except OSError as error:
        raise StudyError(f"{path} can't be written: {error.strerror}.") from error
    try:
        read_study(path)
    except StudyError:
        path.unlink()
        raise
