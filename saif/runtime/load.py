"""Load a model by known name, hub id or local folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from saif.errors import ModelError
from saif.runtime import embedded, hub
from saif.runtime.memory import keep_freed_memory

if TYPE_CHECKING:  # torch loads with a model, not with its name
    from saif.runtime.model import SteerableModel

Quantize = Literal["none", "int8", "4bit"]

DEFAULT_MODEL = "smollm2-135m-instruct"


def load_model(name: str = DEFAULT_MODEL, *, quantize: Quantize = "none") -> "SteerableModel":
    """The model called `name`: a known name, a hub id or a folder.

    Raises ModelError with a way out if it can't be had.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from saif.runtime.model import SteerableModel

    transformers_logging.disable_progress_bar()
    keep_freed_memory()
    found, source = _resolve(name)
    cuda = torch.cuda.is_available()
    options = {} if quantize == "none" else {"quantization_config": _quantization(quantize)}
    try:
        local = Path(source).is_dir() or hub.only_cached(source)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.bfloat16 if cuda or quantize != "none" else torch.float32,
            device_map="auto" if cuda else None,
            local_files_only=local,
            **options,
        )
    # Not there, not a model, damaged, too big, or its quantizer isn't installed.
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(
            f"The model '{name}' could not be loaded: {_first_line(error)}",
            hint=f"Give a known name ({', '.join(KNOWN)}), a hub id or a local folder.",
        ) from error
    return SteerableModel(found, model, tokenizer)


KNOWN = {DEFAULT_MODEL: embedded.MODEL_ID}
"""Known names and their hub ids."""


def model_id(name: str) -> str:
    """The id of the model called `name`, which its presets are filed under; loads nothing."""
    if not name.strip():  # which would otherwise be the current folder
        raise ModelError("The model's name is empty.", hint=f"Known names: {', '.join(KNOWN)}.")
    known = KNOWN.get(name.lower(), name)
    if known != embedded.MODEL_ID and Path(name).is_dir():
        return Path(name).resolve().name
    if known.startswith(("/", ".", "~")) or known.count("/") > 1:  # no hub id looks like that
        raise ModelError(
            f"There is no folder '{name}'.",
            hint=f"Give a known name ({', '.join(KNOWN)}), a hub id or a local folder.",
        )
    return known


def _resolve(name: str) -> tuple[str, str]:
    """(model id, where to load it from)."""
    found = model_id(name)
    folder = embedded.converted_folder() if found == embedded.MODEL_ID else None
    if folder is not None:
        return found, str(folder)
    return found, name if Path(name).is_dir() else found


def _quantization(quantize: Quantize) -> object:
    import torch
    from transformers import BitsAndBytesConfig

    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
