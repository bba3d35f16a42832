"""Studies for tests: the example that ships, changed where a test wants it."""

import copy
import shutil
from pathlib import Path
from typing import Any

import yaml

from saif.presets.library import SHIPPED, Library
from saif.presets.preset import LoadedPreset
from saif.study.design.study_file import Study

EXAMPLE = SHIPPED / "studies" / "example.yaml"
MODEL_FOLDER = "smollm2-135m-instruct"


def plain(**changes: Any) -> dict[str, Any]:
    """The example as a dictionary. `trials__main=4` sets a field inside a part."""
    made = copy.deepcopy(yaml.safe_load(EXAMPLE.read_text("utf-8")))
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = made
        for part in parts:
            place = place[part]
        place[last] = value
    return made


def study(**changes: Any) -> Study:
    return Study.model_validate(plain(**changes))


class ReadOnce(Library):
    """The presets that ship, each read only once: they are megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[tuple[str, str], LoadedPreset] = {}

    def preset(self, model_id: str, name: str) -> LoadedPreset:
        if (model_id, name) not in self._read:
            self._read[model_id, name] = super().preset(model_id, name)
        return self._read[model_id, name]


LIBRARY = ReadOnce()


def small_library(folder: Path, *presets: str) -> Library:
    """A copy of some of the presets that ship, to be damaged."""
    (folder / MODEL_FOLDER).mkdir(parents=True)
    for name in presets or ("translate-french",):
        for suffix in (".json", ".safetensors"):
            shutil.copy(SHIPPED / MODEL_FOLDER / f"{name}{suffix}", folder / MODEL_FOLDER)
    return Library(folder)
