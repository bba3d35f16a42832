"""Pages made from templates: one file with everything in it, in which nothing runs.

Whatever comes from a model, a file or a person is escaped.
"""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from saif.core.types import NO_CONTROL_CODES

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(folder: Path) -> "Environment":
    """For the templates in `folder`, which may include `page.css`, the style of all our pages, and
    have pictures as `src="{{ picture | png }}"`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters["png"] = lambda picture: (
        f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    )
    return environment


def _printable(value: object) -> object:
    """Control codes and halves of characters have no place on a page."""
    if type(value) is not str:  # markup is a subclass, and was made here
        return value
    return value.translate(NO_CONTROL_CODES).encode("utf-8", "replace").decode()
