"""A study, frozen: what is published can be read again, but no byte of it can be changed.

A version's id is the sha256 of its canonical JSON, so whoever holds the id can tell whether the
file is still what participants agreed to.
"""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from saif import __version__
from saif.errors import StudyError
from saif.files import StrictModel, first_problem, replace_file
from saif.presets.library import Library, read_card
from saif.study.design.check import check, uses_of
from saif.study.design.study_file import Study

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_PACKAGES = ("torch", "transformers", "gradio")
_PRIVATE = "*.db*\nbackups/\nserving.lock\n"
"""What git should leave alone: a version may be shown to anyone, what participants gave may not."""


class Version(StrictModel):
    """One published state of a study.

    number: counts from 1. presets: file name -> sha256, both files of every preset. fingerprint:
    the model's, as its presets know it. saes: SAE id -> sha256. code: commit of the checkout, None
    where it is not known. packages: versions that answers depend on.
    """

    schema_version: Literal[1] = 1
    number: Annotated[int, Field(ge=1)]
    study: Study
    consent_sha256: Sha256
    presets: dict[str, Sha256]
    fingerprint: str
    saes: dict[str, Sha256]
    code: str | None
    packages: dict[str, str]

    @property
    def id(self) -> str:
        """sha256 of the canonical JSON."""
        return hashlib.sha256(canonical(self).encode()).hexdigest()


def canonical(value: Version | dict[str, Any]) -> str:
    """JSON with one way of being written: sorted keys, no spaces, no escapes that aren't needed."""
    plain = value.model_dump(mode="json") if isinstance(value, Version) else value
    return json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def publish(
    study: Study, library: Library, folder: Path, *, code: str | None = None
) -> tuple[Version, Path]:
    """Freeze the study as the next version in `folder`, unless it is there; the version and its
    file. Raises StudyError if anything is wrong with the study (see `saif.study.design.check`), or
    a version in the folder was tampered with."""
    wrong = [finding for finding in check(study, library) if finding.severity == "wrong"]
    if wrong:
        raise StudyError(
            f"The study can't be published. {'; '.join(map(str, wrong))}",
            hint="`python -m saif study check` lists all there is to mend.",
        )
    earlier = versions(folder)
    if earlier and earlier[-1].study.id != study.id:
        raise StudyError(
            f"{folder} holds the study '{earlier[-1].study.id}', not '{study.id}'.",
            hint="Each study has a folder of its own.",
        )
    number = earlier[-1].number if earlier else 1
    found = _freeze(study, library, number, code)
    if earlier and found != earlier[-1]:
        number += 1
        found = found.model_copy(update={"number": number})
    return found, write_version(folder, found)


def write_version(folder: Path, found: Version) -> Path:
    """Put a version into a folder, unless it is there; its file."""
    path = folder / f"version-{found.number:03d}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text(_PRIVATE, "utf-8")
        # The checksum first: after a crash between the two, publishing again completes the pair.
        replace_file(path.with_suffix(".sha256"), f"{found.id}  {path.name}\n".encode())
        replace_file(path, canonical(found).encode())
    return path


def versions(folder: Path) -> list[Version]:
    """All versions in a folder, oldest first."""
    return [read_version(path) for path in sorted(folder.glob("version-[0-9][0-9][0-9].json"))]


def read_version(path: Path, *, version_id: str | None = None) -> Version:
    """A published version. version_id: what it must be, from wherever it was noted (default: the
    `.sha256` file beside it). Raises StudyError if a byte differs from what was published."""
    try:
        content = path.read_bytes()
        wanted = version_id or path.with_suffix(".sha256").read_text("utf-8").split()[0]
        found = Version.model_validate_json(content)
    except (OSError, IndexError) as error:
        raise StudyError(f"{path.name} can't be read: {error}") from error
    except ValidationError as error:
        raise StudyError(f"{path.name} is no version: {first_problem(error)}") from error
    intact = hashlib.sha256(content).hexdigest() == wanted == found.id
    if not intact or hash_text(found.study.consent.text) != found.consent_sha256:
        raise StudyError(
            f"{path.name} was changed after it was published.",
            hint="Change the study file and publish it as a new version instead.",
        )
    return found


def check_presets(found: Version, library: Library) -> None:
    """Raises StudyError unless every preset file is byte for byte the published one."""
    now = _preset_hashes(found.study, library)
    for name, sha256 in found.presets.items():
        if now.get(name) != sha256:
            raise StudyError(
                f"{name} is not the file that the study was published with.",
                hint="Put the old file back, or publish a new version.",
            )


def check_fingerprint(found: Version, fingerprint: str) -> None:
    """Raises StudyError unless the loaded model's weights are those of the published version."""
    if fingerprint != found.fingerprint:
        loaded = f"The loaded weights of {found.study.model}"
        raise StudyError(f"{loaded} are not those the study was published with.")


def hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _freeze(study: Study, library: Library, number: int, code: str | None) -> Version:
    cards = [read_card(library.preset_path(study.model, use.preset)) for use in uses_of(study)]
    prints = {card.model.fingerprint for card in cards}
    if len(prints) > 1:
        raise StudyError("The presets were made for different weights of the same model.")
    return Version(
        number=number,
        study=study,
        consent_sha256=hash_text(study.consent.text),
        presets=_preset_hashes(study, library),
        fingerprint=prints.pop(),
        saes={
            table.sae.id: table.sae.sha256
            for card in cards
            for part in card.placements.values()
            for table in part.layers
        },
        code=code,
        packages={"saif": __version__, **{name: _installed(name) for name in _PACKAGES}},
    )


def _preset_hashes(study: Study, library: Library) -> dict[str, str]:
    hashes = {}
    for name in sorted({use.preset for use in uses_of(study)}):
        card = library.preset_path(study.model, name)
        for path in (card, card.with_suffix(".safetensors")):
            hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
