"""The presets and instructions on disk: the ones that ship and the user's own."""

from pathlib import Path

from saif.errors import PresetError
from saif.presets.instructions import Instruction, read_instruction
from saif.presets.names import check_name

SHIPPED = Path(__file__).parents[2] / "presets"


class Library:
    """One `presets/` folder."""

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
