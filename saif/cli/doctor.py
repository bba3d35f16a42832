"""`doctor`: is everything there that saif needs?"""

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from saif.cli.options import JsonOption, PresetsOption, open_library
from saif.cli.output import console, plain, print_json
from saif.errors import PresetError

_REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
_MEMORY = 2.0
"""GiB that loading and chatting with the embedded model take, with some room."""


class Finding(NamedTuple):
    """One thing looked at. `needed`: without it saif doesn't work; otherwise part of it."""

    name: str
    ok: bool
    found: str
    hint: str = ""
    needed: bool = True


def doctor(presets: PresetsOption = None, json: JsonOption = False) -> None:
    """Look over the installation.

    Exit status 2 if something is missing that saif can't do without.
    """
    findings = list(_examine(presets))
    healthy = all(finding.ok or not finding.needed for finding in findings)
    if json:
        print_json({"ok": healthy, "findings": [each._asdict() for each in findings]})
    else:
        screen = console()
        for finding in findings:
            mark = "ok    " if finding.ok else "not ok"
            hint = "" if finding.ok else f". {finding.hint}"
            optional = "" if finding.ok or finding.needed else " (optional)"
            screen.print(
                plain(f"{mark}  {finding.name}: {finding.found}{optional}{hint}"), soft_wrap=True
            )
    if not healthy:
        raise typer.Exit(2)


def _examine(presets: Path | None) -> Iterator[Finding]:
    version = sys.version.split()[0]
    yield Finding(
        "Python", sys.version_info >= (3, 11), version, "saif needs Python 3.11 or newer."
    )
    packages = list(_packages())
    yield from packages
    if all(package.ok for package in packages if package.name == "torch"):
        yield from _machine()
    yield _memory()
    yield _embedded_model()
    yield from _presets(presets)
    browser = shutil.which("chromium")
    hint = "Only the browser tests need it."
    yield Finding("Chromium", browser is not None, browser or "not found", hint, needed=False)


def _packages() -> Iterator[Finding]:
    """What requirements.txt pins against what is installed. Nothing is imported."""
    try:
        lines = _REQUIREMENTS.read_text("utf-8").splitlines()
    except OSError:
        hint = "Only a checkout pins what its numbers were measured with."
        yield Finding("requirements.txt", False, "not found", hint, needed=False)
        return
    for pin in filter(None, (re.match(r"([A-Za-z0-9_.-]+)==([^\s;#]+)", line) for line in lines)):
        name, wanted = pin.groups()
        try:
            # A local version (+cpu, +cu130) is the same release built for other hardware.
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", "Run `make setup`.")
            continue
        same = found == wanted
        said = found if same else f"{found} instead of {wanted}"
        # Another version may well work, but no number was measured with it.
        yield Finding(name, same, said, "Run `make setup`.", needed=False)


def _machine() -> Iterator[Finding]:
    import torch

    from saif.runtime.cpu import build

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("Threads", True, f"{torch.get_num_threads()} of {cores} cores")
    if torch.cuda.is_available():
        name, total = torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
        yield Finding("Device", True, f"{name}, {total / 2**30:.0f} GiB")
    else:
        yield Finding("Device", True, "CPU (no CUDA)")
        yield Finding("Decoding", True, build.describe())


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    hint = f"Free {_MEMORY:g} GiB before you chat."
    return Finding("Memory", memory.available >= _MEMORY * 2**30, found, hint, needed=False)


def _embedded_model() -> Finding:
    from saif.runtime import embedded

    name = "Embedded model"
    if embedded.is_converted():
        return Finding(name, True, "installed and converted")
    if embedded.gguf_file() is not None:
        hint = "`make setup` does it; otherwise the first chat takes a minute longer."
        return Finding(name, False, "installed, not converted", hint, needed=False)
    hint = "Run `make setup`, or name another model with --model."
    return Finding(name, False, "not installed", hint)


def _presets(folder: Path | None) -> Iterator[Finding]:
    from saif.presets.library import read_preset

    library = open_library(folder)
    paths = library.preset_paths()
    broken = 0
    for path in paths:
        try:
            read_preset(path)
        except PresetError as error:
            broken += 1
            yield Finding(f"Preset {path.stem}", False, str(error), error.hint)
    if not paths:
        hint = "Restore presets/ from the repository."
        yield Finding("Presets", False, f"none in {library.root}", hint)
    elif broken < len(paths):
        models = ", ".join(library.model_ids())
        yield Finding("Presets", True, f"{len(paths) - broken} valid, for {models}")
    for name in library.instruction_ids():
        try:
            library.instruction(name)
        except PresetError as error:
            yield Finding(f"Instruction {name}", False, str(error), error.hint)
