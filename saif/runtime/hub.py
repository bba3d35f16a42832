"""The Hugging Face hub: what of it lies on this machine, whether it answers, and sharing files."""

import contextlib
from collections.abc import Iterator, Sequence
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


def commit_of(model_id: str, revision: str) -> str:
    """The commit that a cached model's files are of; "" if it isn't in the cache."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model_id, "config.json", revision=revision)
    return Path(config).parent.name if isinstance(config, str) else ""


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


def upload(folder: Path, repo_id: str, *, message: str, private: bool) -> str:
    """Put a folder's files into a model repository of the hub, which is made if need be; its
    address. Raises OSError, in words, if that can't be done."""
    from huggingface_hub import HfApi

    with in_words(repo_id):
        api = HfApi()
        made = api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        return str(made)


def download(repo_id: str, patterns: Sequence[str], *, revision: str = "main") -> Path:
    """A folder with a repository's files that match. Raises OSError, in words, without them."""
    from huggingface_hub import snapshot_download

    with in_words(repo_id):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns)))


@contextlib.contextmanager
def in_words(repo_id: str) -> Iterator[None]:
    """The hub's refusals as an OSError of one sentence."""
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise OSError(f"'{repo_id}' is not a repository's name, like YOU/NAME") from error
    except LocalTokenNotFoundError as error:
        raise OSError("nobody is logged in to the hub here") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise OSError("the hub has no such repository, or only for those who log in") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise OSError("the hub doesn't allow it with this token") from error
        raise OSError(f"the hub answered with an error ({status})") from error
    except HTTPError as error:
        raise OSError("the hub can't be reached") from error
