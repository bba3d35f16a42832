import ctypes
import os
from pathlib import Path

import pytest
from tiny import tiny_library, tiny_model

from saif.engine.local import LocalEngine
from saif.errors import ModelError
from saif.presets.library import Library
from saif.runtime.embedded import gguf_file
from saif.runtime.language_model import LanguageModel
from saif.runtime.load import load_model


@pytest.fixture
def model() -> LanguageModel:
    return tiny_model()


@pytest.fixture
def engine(model: LanguageModel) -> LocalEngine:
    return LocalEngine(model)


@pytest.fixture
def library(tmp_path: Path, model: LanguageModel) -> Library:
    root = tmp_path / "presets"
    root.mkdir()
    return tiny_library(root, model)


@pytest.fixture(scope="session")
def embedded() -> LocalEngine:
    """The real embedded model. Skips where its package isn't installed."""
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

    try:
        return compile_with(libraries)
    except ModelError as error:
        pytest.skip(str(error))
