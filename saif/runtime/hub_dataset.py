"""A private data set of the hub as a place for the snapshots of a study.

Nothing that is read from it is left in the hub's cache on this disk, because an erasure would not
find it there.
"""

import hashlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saif.runtime.hub import in_words

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_FOLDER = "snapshots/"
_BEFORE = "segments/"
"""Where saif 0.1.0 put its copy, in files that only it can read."""

_PROBE = "probe.txt"
_PATIENCE = 30.0
"""Seconds to wait for an answer."""


class HubDataset:
    """The data set `repo_id`. Every method raises OSError, in words, where it can't be done, and
    before anything is sent to a data set that isn't private."""

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id
        self._head: str | None = None

    def verify(self) -> None:
        """Make the data set if need be, and be sure that it is private and can be written to."""
        told = secrets.token_hex(16).encode()
        with in_words(self.repo_id):
            _api().create_repo(self.repo_id, repo_type="dataset", private=True, exist_ok=True)
        self.names()
        self._commit(_PROBE, told, "Probe")
        if self._read(_PROBE) != told:
            raise OSError(f"{self.repo_id} does not give back what was written to it")

    def names(self) -> list[str]:
        """The snapshots there. What is written next must follow on what is there now. Raises
        OSError where saif 0.1.0 wrote the copy."""
        files, self._head = self._look()
        if any(name.startswith(_BEFORE) for name in files):
            raise OSError(
                f"{self.repo_id} holds a copy that only saif 0.1.0 can read: go on with that "
                "version, or choose another data set and delete this one once all of it is there"
            )
        return [name.removeprefix(_FOLDER) for name in files if name.startswith(_FOLDER)]

    def read(self, name: str) -> bytes:
        return self._read(_FOLDER + name)

    def put(self, name: str, content: bytes) -> None:
        """Add a file. Raises OSError where somebody else has written since `names` was asked."""
        self._look()
        self._commit(_FOLDER + name, content, "Snapshot")

    def replace_all(self, name: str, content: bytes) -> None:
        """Leave this snapshot only; no other is in the history or the store of large files."""
        files, _ = self._look()
        kept = _FOLDER + name
        old = [file for file in files if file.startswith(_FOLDER) and file != kept]
        self._commit(kept, content, "One snapshot for all", delete=old)
        api = _api()
        with in_words(self.repo_id):
            api.super_squash_history(self.repo_id, repo_type="dataset", commit_message="As one")
            large = list(api.list_lfs_files(self.repo_id, repo_type="dataset"))
            # By its content: an older snapshot may have had the same name.
            gone = [file for file in large if file.oid != hashlib.sha256(content).hexdigest()]
            if gone:
                api.permanently_delete_lfs_files(self.repo_id, gone, repo_type="dataset")
        _, self._head = self._look()

    def _look(self) -> tuple[list[str], str | None]:
        """All files, and the commit that they are of."""
        with in_words(self.repo_id):
            info = _api().dataset_info(self.repo_id, timeout=_PATIENCE)
        if not info.private:
            raise OSError(f"{self.repo_id} is not private, so no participant's data are sent there")
        return [file.rfilename for file in info.siblings or []], info.sha

    def _commit(
        self, name: str, content: bytes, message: str, *, delete: Sequence[str] = ()
    ) -> None:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with in_words(self.repo_id):
            made = _api().create_commit(
                self.repo_id,
                [
                    CommitOperationAdd(path_in_repo=name, path_or_fileobj=content),
                    *(CommitOperationDelete(path_in_repo=old) for old in delete),
                ],
                repo_type="dataset",
                commit_message=message,
                parent_commit=self._head,
            )
        self._head = made.oid

    def _read(self, name: str) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(self.repo_id, name, repo_type="dataset", revision=self._head)
        with in_words(self.repo_id):
            answer = get_session().get(
                url, headers=build_hf_headers(), timeout=_PATIENCE, follow_redirects=True
            )
            hf_raise_for_status(answer)
            return bytes(answer.content)


def _api() -> "HfApi":
    """The hub's client, which by itself would wait for an answer for ever."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    get_session().timeout = _PATIENCE
    return HfApi()
