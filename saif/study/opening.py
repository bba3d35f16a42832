"""Opening a published study: its folder holds its versions, and beside them what people did."""

import os
from collections.abc import Mapping
from pathlib import Path

from saif.errors import StudyError
from saif.study.design.publish import Version, versions
from saif.study.durability.remote import Copier, rebuild
from saif.study.store.identities import key_of, on_a_space
from saif.study.store.store import Store

REMOTE_VARIABLE = "SAIF_STUDY_DATASET"
"""A data set of the hub to copy to, as in YOU/NAME."""


def check_place(env: Mapping[str, str] = os.environ) -> None:
    """Raises StudyError where a study must not be served."""
    if env.get("SPACES_ZERO_GPU", "").lower() in ("true", "1"):
        raise StudyError(
            "A study can't run on ZeroGPU: a visitor's quota may end in the middle of it.",
            hint="Choose hardware of its own in the Space's settings.",
        )
    if on_a_space(env) and not env.get(REMOTE_VARIABLE):
        raise StudyError(
            "A Space's disk is wiped at every restart, so votes would be lost.",
            hint=f"Set {REMOTE_VARIABLE} to a private data set, and HF_TOKEN to a token that may "
            "write there.",
        )


def newest_version(folder: Path) -> Version:
    """Raises StudyError where none was published."""
    found = versions(folder)
    if not found:
        raise StudyError(
            f"No study was published to {folder.resolve()}.",
            hint="Publish one with `python -m saif study publish STUDY.yaml --to DIR`.",
        )
    return found[-1]


def open_study(folder: Path, *, to_look: bool = False) -> Store:
    """The store of the newest version in `folder`. to_look: without the key, which takes no one in
    and checks no receipt. Raises StudyError."""
    version = newest_version(folder)
    if to_look and not (folder / "study.db").exists():
        raise StudyError(
            f"The study in {folder} was never served, so there is nothing to see.",
            hint=f"Open it with `python -m saif study serve {folder}`.",
        )
    return Store(folder, version, None if to_look else key_of(version.study.id))


def open_to_serve(folder: Path) -> tuple[Store, Copier | None]:
    """The store, and what copies it to the remote place, if one is set; from which an empty folder
    is filled first. Raises StudyError where the study must not be served here."""
    from saif.runtime.hub_dataset import HubDataset

    check_place()
    name = os.environ.get(REMOTE_VARIABLE)
    if not name:
        return open_study(folder), None
    place = HubDataset(name)
    try:
        place.verify()
        if not (folder / "study.db").exists():
            rebuild(folder, newest_version(folder).study.id, place)
        store = open_study(folder)
        copier = Copier(store, place)
        copier()  # a copy of other data is found now rather than when somebody has finished
    except OSError as error:
        raise StudyError(
            f"The data set {name} can't be used for the study's copy: {str(error).rstrip('.')}.",
            hint="It must be private, and HF_TOKEN a token that may write to it.",
        ) from error
    return store, copier
