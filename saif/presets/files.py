"""Read and write presets. Strict at the edge: what doesn't fit is refused by field name."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from saif.core.types import PLACEMENTS
from saif.errors import PresetError
from saif.files import first_problem, replace_file
from saif.presets.names import check_name
from saif.presets.preset import LayerVectors, LoadedPreset, Preset

if TYPE_CHECKING:
    from torch import Tensor

_PER_LAYER = ("ids", "decoder", "encoder", "bias", "threshold")


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
        vectors[layer] = LayerVectors(
            ids=_take(left, f"{layer}.ids", m).tolist(),
            decoder=_take(left, f"{layer}.decoder", m, d_model),
            encoder=_take(left, f"{layer}.encoder", m, d_model),
            bias=_take(left, f"{layer}.bias", m),
            threshold=_take(left, f"{layer}.threshold", m),
            mean_difference={
                placement: _take(left, f"{layer}.mean_difference.{placement}", d_model)
                for placement in PLACEMENTS
            },
        )
        if len(set(vectors[layer].ids)) != m:
            raise ValueError(f"{layer}.ids: holds a latent twice")
    if left:
        raise ValueError(f"{sorted(left)[0]}: is unknown")
    _check_latents(preset, vectors)
    return vectors


def _take(left: "dict[str, Tensor]", name: str, *shape: int) -> "Tensor":
    """Remove the tensor called `name`, if it is what it must be. Raises ValueError."""
    import torch

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


def _check_latents(preset: Preset, vectors: dict[int, LayerVectors]) -> None:
    """Every latent on the card has its row among the tensors. Raises ValueError."""
    for placement, part in preset.placements.items():
        for table in part.layers:
            stored = set(vectors[table.layer].ids)
            missing = [latent.id for latent in table.latents if latent.id not in stored]
            if missing:
                raise ValueError(
                    f"{table.layer}.ids: lacks latent {missing[0]} of placement {placement}"
                )


def write_preset(folder: Path, loaded: LoadedPreset) -> Path:
    """Write both files into `folder`; returns the JSON file's path."""
    import torch
    from safetensors.torch import save

    check_name(loaded.id)
    tensors: dict[str, Tensor] = {}
    for layer, vectors in loaded.vectors.items():
        tensors[f"{layer}.ids"] = torch.tensor(vectors.ids)
        for name in _PER_LAYER[1:]:
            tensors[f"{layer}.{name}"] = getattr(vectors, name).half().contiguous()
        for placement, vector in vectors.mean_difference.items():
            tensors[f"{layer}.mean_difference.{placement}"] = vector.float().contiguous()
    _vectors(loaded.preset, tensors)  # never write what could not be read back
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{loaded.id}.json"
    replace_file(path.with_suffix(".safetensors"), save(tensors))
    replace_file(path, (loaded.preset.model_dump_json(indent=1) + "\n").encode())
    return path
