"""Whether a study may be served here: nothing that a participant gives may get lost."""

import os
from collections.abc import Mapping

from saif.errors import StudyError
from saif.study.store.keys import on_a_space

REMOTE_VARIABLE = "SAIF_STUDY_DATASET"
"""A data set of the hub to copy to, as in YOU/NAME."""


def remote_name(env: Mapping[str, str] = os.environ) -> str | None:
    """Where to copy to; None for nowhere."""
    return env.get(REMOTE_VARIABLE) or None


def check_place(env: Mapping[str, str] = os.environ) -> None:
    """Raises StudyError where a study must not be served."""
    if env.get("SPACES_ZERO_GPU", "").lower() in ("true", "1"):
        raise StudyError(
            "A study can't run on ZeroGPU: a visitor's quota may end in the middle of it.",
            hint="Choose hardware of its own in the Space's settings.",
        )
    if on_a_space(env) and remote_name(env) is None:
        raise StudyError(
            "A Space's disk is wiped at every restart, so votes would be lost.",
            hint=f"Set {REMOTE_VARIABLE} to a private data set, and HF_TOKEN to a token that may "
            "write there.",
        )
