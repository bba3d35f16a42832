"""The compiled decoding step, made for the tests."""

import ctypes
from collections.abc import Iterator

import pytest
import torch

from saif.errors import ModelError
from saif.runtime.cpu import build


@pytest.fixture(scope="module", params=[(), ("-mno-avx512f",)], ids=["own", "narrow"])
def library(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ctypes.CDLL]:
    """For this processor, and for one that has no products of bytes and narrower vectors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_OPTIONS", (*build._OPTIONS, *request.param))
        patch.setenv("SAIF_CACHE", str(tmp_path_factory.mktemp("cache")))
        build.library.cache_clear()
        try:
            build.compile_library()
        except ModelError as error:
            pytest.skip(str(error))
        found = build.library()
        assert found is not None
        yield found
    build.library.cache_clear()


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
