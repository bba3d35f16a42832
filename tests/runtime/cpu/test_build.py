"""Compiling the C step: what is said where that fails, and which library is opened."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saif.errors import ModelError
from saif.runtime.cpu import build


def test_opening_the_library_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    build.library.cache_clear()
    assert build.library() is None
    assert not any(tmp_path.iterdir())
    build.library.cache_clear()


def test_a_library_for_another_processor_is_not_opened(
    c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = build.library_path()
    monkeypatch.setattr(build, "_processor", lambda: b"another")
    assert build.library_path() != own


def test_a_damaged_library_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    build.library.cache_clear()
    build.library_path().write_bytes(b"no library")
    assert build.library() is None
    build.library.cache_clear()


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    refused = SimpleNamespace(returncode=1, stderr="error: no such option\nmore")
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(ModelError, match="no such option"):
        build.compile_library()
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    with pytest.raises(ModelError, match="no C compiler"):
        build.compile_library()
    assert not any(tmp_path.iterdir())


def test_what_was_compiled_for_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/bin/{name}")

    def writes_no_library(command: list[str], **_: Any) -> SimpleNamespace:
        Path(command[command.index("-o") + 1]).write_bytes(b"no library")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(build.subprocess, "run", writes_no_library)
    build.library.cache_clear()
    with pytest.raises(ModelError, match="can't be opened"):
        build.compile_library()
    build.library.cache_clear()


def test_it_says_what_it_was_compiled_for(
    c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "library", lambda: c_library)
    assert build.describe() == f"compiled for {build.kernel(c_library)}"
    monkeypatch.setattr(build, "library", lambda: None)
    assert build.describe().startswith("not compiled; ")
