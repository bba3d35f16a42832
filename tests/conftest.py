"""How the tests run, and fixtures of all rooms. Nothing heavy is imported before a test asks."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import ctypes

    from saif.engine.local import LocalEngine
    from saif.presets.library import Library
    from saif.runtime.language_model import LanguageModel

pytest_plugins = ["durations"]

if "PYTEST_XDIST_WORKER" in os.environ:  # a thread for each worker, before torch counts them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

MEMORY_DISK = Path("/dev/shm")
MEMORY_NEEDED = 4e9
"""Bytes that have to be free there."""
MARKED_BY_FOLDER = ("browser", "contract", "smoke")


@pytest.hookimpl(tryfirst=True)
def pytest_configure() -> None:
    """Temporary folders lie in memory: hundreds of stores wait for a disk otherwise. TMPDIR wins,
    and a memory disk that may not run programs is of no use to the compiled step."""
    if "TMPDIR" in os.environ or not os.access(MEMORY_DISK, os.W_OK | os.X_OK):
        return
    runs_programs = not os.statvfs(MEMORY_DISK).f_flag & os.ST_NOEXEC
    if runs_programs and shutil.disk_usage(MEMORY_DISK).free > MEMORY_NEEDED:
        os.environ["TMPDIR"] = str(MEMORY_DISK)  # for workers and other processes as well
        tempfile.tempdir = None  # found again, as TMPDIR says


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        if room in MARKED_BY_FOLDER:
            item.add_marker(room)
        if room == "stress":
            item.add_marker("extended")


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """As `tmp_path`, on a real disk, for what is about being on disk."""
    kept = Path("/var/tmp")  # outlives a restart, so it isn't memory
    with tempfile.TemporaryDirectory(dir=kept if kept.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def model() -> LanguageModel:
    from tiny import tiny_model

    return tiny_model()


@pytest.fixture
def engine(model: LanguageModel) -> LocalEngine:
    from saif.engine.local import LocalEngine

    return LocalEngine(model)


@pytest.fixture
def library(tmp_path: Path, model: LanguageModel) -> Library:
    from tiny import tiny_library

    root = tmp_path / "presets"
    root.mkdir()
    return tiny_library(root, model)


@pytest.fixture(scope="session")
def embedded() -> LocalEngine:
    """The real embedded model. Skips where its package isn't installed."""
    from saif.engine.local import LocalEngine
    from saif.runtime.embedded import gguf_file
    from saif.runtime.load import load_model

    if gguf_file() is None:
        pytest.skip("the package with the embedded model is not installed")
    return LocalEngine(load_model())


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the C step is compiled to, once for all processes of a test run."""
    folder = tmp_path_factory.getbasetemp()
    return (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "libraries"


@pytest.fixture(scope="session")
def c_library(libraries: Path) -> ctypes.CDLL:
    """The C step, compiled for this processor."""
    from step_models import compile_with

    from saif.errors import ModelError

    try:
        return compile_with(libraries)
    except ModelError as error:
        pytest.skip(str(error))
