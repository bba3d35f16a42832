"""Where a study's secrets lie: in the environment or, for the key, in a file of the user's.

The key is never in the study's folder, so who gets hold of the data can't tell who anybody is.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from saif.errors import StudyError
from saif.study.store.identities import KEY_VARIABLE, MIN_KEY_BYTES, key_from_environment

SECRET_VARIABLE = "SAIF_STUDY_SECRET"
MIN_SECRET_CHARACTERS = 16


def on_a_space(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this runs on a Hugging Face Space, whose disk is wiped at every restart."""
    return "SPACE_ID" in env


def key_file(study_id: str) -> Path:
    """Where the key of a study is kept for who set none. `SAIF_HOME` overrides the user's folder of
    settings."""
    home = os.environ.get("SAIF_HOME") or platformdirs.user_config_dir("saif")
    return Path(home) / "study-keys" / f"{study_id}.key"


def make_key(study_id: str) -> Path | None:
    """Make a key for a study that has none yet; its file. None where the environment has the key,
    or has to."""
    if os.environ.get(KEY_VARIABLE) or on_a_space():
        return None
    path = key_file(study_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    return path


def key_of(study_id: str) -> bytes:
    """The key of a study: the environment's or, elsewhere than on a Space, that of its file.
    Raises StudyError where there is none."""
    if os.environ.get(KEY_VARIABLE) or on_a_space():
        return key_from_environment()
    path = key_file(study_id)
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise StudyError(
            f"The key of the study '{study_id}' is not on this machine: {path} can't be read.",
            hint=f"Copy it from where the study was published, or set {KEY_VARIABLE}.",
        ) from error
    if len(key) < MIN_KEY_BYTES:
        raise StudyError(f"{path} is no key: it is shorter than {MIN_KEY_BYTES} characters.")
    return key


def researcher_secret() -> str | None:
    """What the researcher logs in with; None where the researcher's page is to be off. Raises
    StudyError where it is too short to be a secret."""
    secret = os.environ.get(SECRET_VARIABLE, "")
    if secret and len(secret) < MIN_SECRET_CHARACTERS:
        raise StudyError(
            f"{SECRET_VARIABLE} must have at least {MIN_SECRET_CHARACTERS} characters.",
            hint="Make one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
        )
    return secret or None
