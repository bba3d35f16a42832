from pathlib import Path

import pytest
from made_up import planted_preset, write_data

from saif.engine.local import LocalEngine
from saif.presets.preset import LoadedPreset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def preset(engine: LocalEngine) -> LoadedPreset:
    return planted_preset(engine)
