"""What is wrong with a study file, in words for somebody who writes one and no code."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from saif.study.design.questions import StudyPart

MOST = 4
"""Problems that are told at once."""


def problems(error: ValidationError, document: object) -> str:
    """All that is wrong, each with its place in the file; unknown words come first, since what
    is misspelt is missing under its right name, too."""
    found = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    told = list(dict.fromkeys(f"{_place(one, document)}{_told(one)}" for one in found))
    more = f"; and {len(told) - MOST} more" if len(told) > MOST else ""
    return "; ".join(told[:MOST]) + more


def _place(one: ErrorDetails, document: object) -> str:
    """`questions 'fluent'.options (item 1): `. What the reader adds to a place, such as the kind it
    took a part for, is left out."""
    parts: list[str] = []
    here: Any = document
    for part in one["loc"]:
        if isinstance(part, int):
            here = here[part] if isinstance(here, list) and part < len(here) else None
            name = here.get("id") if isinstance(here, dict) else None
            which = f"'{name}'" if isinstance(name, str) else f"(item {part + 1})"
            parts[-1:] = [" ".join([*parts[-1:], which])]
        elif isinstance(here, dict) and part in here:
            here = here[part]
            parts.append(part)
        elif one["type"] == "missing" and part is one["loc"][-1]:
            parts.append(part)
    return ".".join(parts) + ": " if parts else ""


def _told(one: ErrorDetails) -> str:
    kind, given = one["type"], one["input"]
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(one["loc"][-1]), sorted(set(_names(StudyPart))), n=1)
        return f"is not known here; did you mean '{near[0]}'?" if near else "is not known here"
    if kind == "union_tag_invalid":
        return f"kind: '{one['ctx']['tag']}' is none of {one['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return "kind: is missing"
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "must be a text: put it in quotes"
    if kind == "list_type" and given is None:
        return "must be a list; for an empty one, write []"
    said = one["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return said[:1].lower() + said[1:]


def _names(kind: type[StudyPart]) -> Iterator[str]:
    """Every word that a part of a study file may have."""
    yield from kind.model_fields
    for each in kind.__subclasses__():
        yield from _names(each)
