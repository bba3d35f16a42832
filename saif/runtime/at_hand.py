"""Which models can be loaded without a network; asking loads nothing."""

from typing import Literal

from saif.runtime import embedded, hub

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
    return "hub cache" if hub.cached(model_id) else None
