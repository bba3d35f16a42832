"""Names that become file names."""

import re

from saif.errors import PresetError

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def check_name(name: str) -> str:
    """`name`, if it can't lead out of a folder; PresetError otherwise."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise PresetError(
            f"'{name[:80]}' is not a valid name.",
            hint="Use up to 64 lower-case letters, digits, dots and dashes.",
        )
    return name
