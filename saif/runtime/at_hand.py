"""Which models can be loaded without a network; asking loads nothing."""

from pathlib import Path
from typing import Literal

from saif.runtime import embedded

AtHand = Literal["converted", "package", "hub cache"]


def at_hand(model_id: str) -> AtHand | None:
    """Where the model's weights lie on this machine; None if they would have to be fetched.

    package: installed, but not yet converted, which takes a minute at the first use.
    """
    if model_id == embedded.MODEL_ID:
        if embedded.is_converted():
            return "converted"
        if embedded.gguf_file() is not None:
            return "package"
    return "hub cache" if _cached(model_id) else None


def _cached(model_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model_id, "config.json")
    except HFValidationError:  # a local folder's name, which is no hub id
        return False
    # A download that was broken off leaves the config, but no whole file of weights.
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))
