"""The Hugging Face hub: what of it lies on this machine, and whether it answers."""

from pathlib import Path

_PATIENCE = 10.0
"""Seconds to wait for the hub before going on without it."""


def cached(model_id: str) -> bool:
    """Whether the model's config and weights lie in the hub's cache; asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model_id, "config.json")
    except HFValidationError:  # a local folder's name, which is no hub id
        return False
    # A download that was broken off leaves the config, but no whole file of weights.
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))


def only_cached(model_id: str) -> bool:
    """Whether to load from the cache and not ask the hub.

    One question decides, because transformers by itself asks for every file again and again,
    for minutes, before it believes that there is no network. Raises OSError or ValueError, in
    words, if the model can't be had at all.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError  # type: ignore[attr-defined]

    try:
        HfApi().model_info(model_id, timeout=_PATIENCE)
    except RepositoryNotFoundError as error:
        if cached(model_id):
            return True
        raise OSError("the hub has no such model, or only for those who log in.") from error
    except (HTTPError, OSError) as error:
        if cached(model_id):
            return True
        raise OSError("it is not on this machine, and the hub can't be reached.") from error
    return False
