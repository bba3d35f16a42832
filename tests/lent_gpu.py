"""A stand-in for the `spaces` package of ZeroGPU Spaces: what goes in or comes out is a copy."""

import pickle
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest


def lend_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Install it. Notes for how many seconds each call asks for a GPU."""
    asked: list[int] = []

    def gpu(duration: Callable[..., int]) -> Callable[[Any], Any]:
        def decorate(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
            def call(*arguments: Any) -> Iterator[Any]:
                asked.append(duration(*arguments))
                for value in function(*pickle.loads(pickle.dumps(arguments))):
                    yield pickle.loads(pickle.dumps(value))

            return call

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    return asked
