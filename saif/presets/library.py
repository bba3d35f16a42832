"""The presets and instructions on disk: the ones that ship and the user's own."""

import re
from pathlib import Path

from saif.errors import PresetError
from saif.presets.files import read_card, read_preset
from saif.presets.instructions import Instruction, read_instruction
from saif.presets.names import check_name
from saif.presets.preset import LoadedPreset, Preset

SHIPPED = Path(__file__).parents[2] / "presets"


class Library:
    """One `presets/` folder: `instructions/` for any model, a folder of presets per model."""

    def __init__(self, root: Path = SHIPPED) -> None:
        self.root = root

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
        return self.root / check_name(name.strip("-.")[:64])

    def preset_ids(self, model_id: str) -> list[str]:
        return sorted(path.stem for path in self.model_folder(model_id).glob("*.json"))

    def card(self, model_id: str, name: str) -> Preset:
        """A preset without its vectors."""
        return read_card(self._preset_path(model_id, name))

    def preset(self, model_id: str, name: str) -> LoadedPreset:
        return read_preset(self._preset_path(model_id, name))

    def model_ids(self) -> list[str]:
        """The model folders that hold at least one preset."""
        return sorted({path.parent.name for path in self.root.glob("*/*.json")})

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
