"""The presets and instructions on disk: the ones that ship and the user's own."""

import os
import re
from pathlib import Path

import platformdirs

from saif.errors import PresetError
from saif.presets.files import read_card, read_preset
from saif.presets.instructions import Instruction, read_instruction
from saif.presets.names import check_name
from saif.presets.preset import LoadedPreset, Preset

_IN_WHEEL = Path(__file__).parents[1] / "_presets"
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2] / "presets"
"""The presets that come with saif: in an installed package, or in the checkout."""


def user_folder() -> Path:
    """Where a user's own presets are kept. `SAIF_HOME` overrides the user's data folder."""
    home = os.environ.get("SAIF_HOME") or platformdirs.user_data_dir("saif")
    return Path(home) / "presets"


class Library:
    """A `presets/` folder: `instructions/` for any model, a folder of presets per model.

    own: where presets are written, and looked for before `root`; None writes into `root` itself.
    """

    def __init__(self, root: Path = SHIPPED, *, own: Path | None = None) -> None:
        self.root = root
        self.roots = [root] if own is None else [own, root]

    def instruction_ids(self) -> list[str]:
        return sorted(path.stem for path in (self.root / "instructions").glob("*.yaml"))

    def instruction(self, name: str) -> Instruction:
        path = self.root / "instructions" / f"{check_name(name)}.yaml"
        if not path.is_file():
            raise PresetError(
                f"There is no instruction '{name}'.",
                hint=f"Available: {', '.join(self.instruction_ids()) or 'none'}.",
            )
        return read_instruction(path)

    def instructions(self) -> list[Instruction]:
        return [self.instruction(name) for name in self.instruction_ids()]

    def model_folder(self, model_id: str) -> Path:
        """Where a model's presets are written: the last part of its id, in lower case, with a dash
        for whatever a preset's name may not hold either."""
        name = re.sub(r"[^a-z0-9.-]+", "-", model_id.rsplit("/", 1)[-1].lower())
        return self.roots[0] / check_name(name.strip("-.")[:64])

    def model_folders(self, model_id: str) -> list[Path]:
        """Where a model's presets may lie; the first that has one counts."""
        name = self.model_folder(model_id).name
        return [root / name for root in self.roots]

    def preset_ids(self, model_id: str) -> list[str]:
        folders = self.model_folders(model_id)
        return sorted({path.stem for folder in folders for path in folder.glob("*.json")})

    def card(self, model_id: str, name: str) -> Preset:
        """A preset without its vectors."""
        return read_card(self.preset_path(model_id, name))

    def preset(self, model_id: str, name: str) -> LoadedPreset:
        return read_preset(self.preset_path(model_id, name))

    def preset_paths(self) -> list[Path]:
        """The cards of all presets of all models."""
        found: dict[str, Path] = {}
        for root in self.roots:
            for path in root.glob("*/*.json"):
                found.setdefault(path.relative_to(root).as_posix(), path)
        return [found[name] for name in sorted(found)]

    def model_ids(self) -> list[str]:
        """The model folders that hold at least one preset."""
        return sorted({path.parent.name for path in self.preset_paths()})

    def place_of(self, folder: Path) -> str | None:
        """A folder inside the library by its path there, which means the same on any machine."""
        folder = folder.resolve()
        for root in map(Path.resolve, self.roots):
            if folder.is_relative_to(root):
                return folder.relative_to(root).as_posix()
        return None

    def sae_folder(self, model_id: str, layer: int) -> Path:
        """Where a trained SAE is written."""
        return self.model_folder(model_id) / "sae" / str(layer)

    def sae_folders(self, model_id: str) -> dict[int, Path]:
        """layer -> the model's own SAE at that layer."""
        found: dict[int, Path] = {}
        for folder in self.model_folders(model_id):
            for path in (folder / "sae").glob("*"):
                if path.name.isdigit():
                    found.setdefault(int(path.name), path)
        return found

    def preset_path(self, model_id: str, name: str) -> Path:
        """The card of a preset. Raises PresetError, naming those there are, without one."""
        file = f"{check_name(name)}.json"
        for folder in self.model_folders(model_id):
            if (folder / file).is_file():
                return folder / file
        known = ", ".join(self.preset_ids(model_id)) or "none yet"
        raise PresetError(
            f"There is no preset '{name}' for {model_id}.", hint=f"Available: {known}."
        )
