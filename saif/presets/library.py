"""The presets and instructions on disk: the file formats, and the library that looks them up.

Strict at the edge: what doesn't fit is refused by field name. A preset is `<id>.json`, for people
to read, with its vectors in `<id>.safetensors` beside it.
"""

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from pydantic import ValidationError

from saif.core.types import PLACEMENTS
from saif.errors import PresetError
from saif.files import first_problem, read_yaml, replace_file
from saif.presets.instructions import Instruction
from saif.presets.preset import LayerVectors, LoadedPreset, Preset

if TYPE_CHECKING:
    from torch import Tensor

_IN_WHEEL = Path(__file__).parents[1] / "_presets"
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2] / "presets"
"""The presets that come with saif: in an installed package, or in the checkout."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def user_folder() -> Path:
    """Where a user's own presets are kept. `SAIF_HOME` overrides the user's data folder."""
    home = os.environ.get("SAIF_HOME") or platformdirs.user_data_dir("saif")
    return Path(home) / "presets"


def check_name(name: str) -> str:
    """`name`, if it can't lead out of a folder; PresetError otherwise."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise PresetError(
            f"'{name[:80]}' is not a valid name.",
            hint="Use up to 64 lower-case letters, digits, dots and dashes.",
        )
    return name


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


def read_instruction(path: Path) -> Instruction:
    """The instruction in a YAML file. Raises PresetError naming the field that is wrong."""
    try:
        instruction = Instruction.model_validate(read_yaml(path))
    except ValidationError as error:
        raise PresetError(f"{path.name}: {first_problem(error)}") from error
    except ValueError as error:
        raise PresetError(f"{path.name} can't be read: {error}") from error
    check_name(instruction.id)
    if instruction.id != path.stem:
        raise PresetError(f"{path.name}: id: is '{instruction.id}', but must be the file's name.")
    return instruction


def read_card(path: Path) -> Preset:
    """The JSON half of a preset: enough to list and show it, with no tensor library loaded."""
    check_name(path.stem)
    try:
        preset = Preset.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PresetError(f"{path.name} can't be read: {error}") from error
    except ValidationError as error:
        raise PresetError(
            f"{path.name} is not a valid preset: {first_problem(error)}",
            hint="It may be damaged or made by a newer version of saif.",
        ) from error
    if preset.id != path.stem:
        raise PresetError(f"{path.name}: id: is '{preset.id}', but must be the file's name.")
    return preset


def read_preset(path: Path) -> LoadedPreset:
    """A preset with its vectors. Raises PresetError naming the file and field that is wrong."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    preset = read_card(path)
    tensors_path = path.with_suffix(".safetensors")
    try:
        tensors = load_file(tensors_path)
    except (OSError, SafetensorError) as error:
        raise PresetError(
            f"The vectors of the preset '{preset.id}' can't be read: {error}",
            hint=f"{tensors_path.name} must lie beside {path.name}.",
        ) from error
    try:
        return LoadedPreset(preset, _vectors(preset, tensors))
    except ValueError as error:
        raise PresetError(f"{tensors_path.name}: {error}") from error


def _vectors(preset: Preset, tensors: "dict[str, Tensor]") -> dict[int, LayerVectors]:
    """Check every tensor's shape and numbers against the card. Raises ValueError."""
    left = dict(tensors)
    d_model = preset.model.d_model
    vectors = {}
    layers = {layer for part in preset.placements.values() for layer in part.layer_numbers}
    for layer in sorted(layers):
        # As many as the ids say: it is the other tensors that have to agree with them.
        m = left[f"{layer}.ids"].numel() if f"{layer}.ids" in left else 0
        take = partial(_take, left, f"{layer}.")
        vectors[layer] = LayerVectors(
            ids=take("ids", m).tolist(),
            decoder=take("decoder", m, d_model),
            encoder=take("encoder", m, d_model),
            bias=take("bias", m),
            threshold=take("threshold", m),
            mean_difference={p: take(f"mean_difference.{p}", d_model) for p in PLACEMENTS},
        )
        if len(set(vectors[layer].ids)) != m:
            raise ValueError(f"{layer}.ids: holds a latent twice")
    if left:
        raise ValueError(f"{sorted(left)[0]}: is unknown")
    for placement, part in preset.placements.items():
        for table in part.layers:
            missing = {latent.id for latent in table.latents} - set(vectors[table.layer].ids)
            if missing:
                raise ValueError(
                    f"{table.layer}.ids: lacks latent {min(missing)} of placement {placement}"
                )
    return vectors


def _take(left: "dict[str, Tensor]", prefix: str, name: str, *shape: int) -> "Tensor":
    """Remove the tensor called prefix + name, if it is what it must be. Raises ValueError."""
    import torch

    name = prefix + name
    if name not in left:
        raise ValueError(f"{name}: is missing")
    tensor = left.pop(name)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: has shape {tuple(tensor.shape)} instead of {shape}")
    if tensor.is_floating_point() == name.endswith(".ids"):
        raise ValueError(f"{name}: holds {tensor.dtype} numbers")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name}: holds NaN or infinite numbers")
    return tensor


def write_preset(folder: Path, loaded: LoadedPreset) -> Path:
    """Write both files into `folder`; returns the JSON file's path."""
    import torch
    from safetensors.torch import save

    check_name(loaded.id)
    tensors: dict[str, Tensor] = {}
    for layer, vectors in loaded.vectors.items():
        tensors[f"{layer}.ids"] = torch.tensor(vectors.ids)
        for name in ("decoder", "encoder", "bias", "threshold"):
            tensors[f"{layer}.{name}"] = getattr(vectors, name).half().contiguous()
        for placement, vector in vectors.mean_difference.items():
            tensors[f"{layer}.mean_difference.{placement}"] = vector.float().contiguous()
    _vectors(loaded.preset, tensors)  # never write what could not be read back
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{loaded.id}.json"
    replace_file(path.with_suffix(".safetensors"), save(tensors))
    replace_file(path, (loaded.preset.model_dump_json(indent=1) + "\n").encode())
    return path
