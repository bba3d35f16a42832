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

SHIPPED = Path(__file__).parents[2] / "presets"


def user_folder() -> Path:
    """Where a user's own presets are kept. `SAIF_HOME` overrides the user's data folder."""
    home = os.environ.get("SAIF_HOME") or platformdirs.user_data_dir("saif")
    return Path(home) / "presets"


class Library:
    """A `presets/` folder: `instructions/` for any model, a folder of presets per model.

    own: where the presets of models go that have no folder in `root`; None for `root` as well.
    """

    def __init__(self, root: Path = SHIPPED, *, own: Path | None = None) -> None:
        self.root = root
        self.roots = [root] if own is None else [root, own]

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
        """Where a model's presets and SAEs lie: the last part of its id, in lower case, with a
        dash for whatever a preset's name may not hold either."""
        name = re.sub(r"[^a-z0-9.-]+", "-", model_id.rsplit("/", 1)[-1].lower())
        name = check_name(name.strip("-.")[:64])
        return next(
            (root / name for root in self.roots if (root / name).is_dir()), self.roots[-1] / name
        )

    def preset_ids(self, model_id: str) -> list[str]:
        return sorted(path.stem for path in self.model_folder(model_id).glob("*.json"))

    def card(self, model_id: str, name: str) -> Preset:
        """A preset without its vectors."""
        return read_card(self._preset_path(model_id, name))

    def preset(self, model_id: str, name: str) -> LoadedPreset:
        return read_preset(self._preset_path(model_id, name))

    def preset_paths(self) -> list[Path]:
        """The cards of all presets of all models."""
        return sorted(path for root in self.roots for path in root.glob("*/*.json"))

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
        return self.model_folder(model_id) / "sae" / str(layer)

    def _preset_path(self, model_id: str, name: str) -> Path:
        path = self.model_folder(model_id) / f"{check_name(name)}.json"
        if not path.is_file():
            known = ", ".join(self.preset_ids(model_id)) or "none yet"
            raise PresetError(
                f"There is no preset '{name}' for {model_id}.", hint=f"Available: {known}."
            )
        return path
