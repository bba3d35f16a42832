import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saif.errors import InputError, ModelError
from saif.experiments.train_sae import activations as module
from saif.experiments.train_sae.activations import collect_activations
from saif.experiments.train_sae.corpus import Sequences
from saif.runtime.language_model import LanguageModel

Stopped = RuntimeError


@pytest.fixture
def corpus() -> list[Sequences]:
    rng = random.Random(0)

    def sequences(n: int, skip: int) -> Sequences:
        shared = list(range(65, 65 + skip))
        own = [[rng.randrange(256) for _ in range(rng.randrange(3, 20))] for _ in range(n)]
        return Sequences([shared + ids for ids in own], skip)

    return [sequences(120, 5), sequences(60, 1)]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TOKENS_PER_BATCH", 48)


class Spy:
    """Counts what is asked of `residuals`, and fails at the batch it is told to."""

    def __init__(self, model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.layers: list[list[int]] = []
        self.fail_at = -1
        self._real = model.residuals
        monkeypatch.setattr(model, "residuals", self._residuals)

    def _residuals(self, batch: Any, layers: Any, **options: Any) -> Any:
        if len(self.layers) == self.fail_at:
            raise Stopped
        self.layers.append(list(layers))
        return self._real(batch, layers, **options)


def test_rows_are_the_models_residuals_token_for_token(
    model: LanguageModel, corpus: list[Sequences], tmp_path: Path
) -> None:
    files = collect_activations(model, corpus, [0, 3], tmp_path)
    for layer, path in files.items():
        stored = torch.from_numpy(np.load(path))
        assert stored.dtype == torch.float16
        expected = [
            model.residuals([ids], [layer], skip=part.skip)[0][layer][0]
            for part in corpus
            for ids in sorted(part.token_ids, key=len)
        ]
        assert torch.allclose(stored.float(), torch.cat(expected), rtol=2e-3, atol=2e-3)


def test_an_interrupted_run_ends_with_the_same_arrays(
    model: LanguageModel,
    corpus: list[Sequences],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = collect_activations(model, corpus, [1], tmp_path / "whole")
    spy = Spy(model, monkeypatch)
    spy.fail_at = 30
    with pytest.raises(Stopped):
        collect_activations(model, corpus, [1], tmp_path / "parts")
    spy.fail_at = -1
    parts = collect_activations(model, corpus, [1], tmp_path / "parts")
    assert np.array_equal(np.load(whole[1]), np.load(parts[1]))
    n_batches = sum(len(module._batches(part)) for part in corpus)
    assert len(spy.layers) == n_batches + 10  # it went on from batch 20, not from the start


def test_a_layer_added_later_leaves_the_others_alone(
    model: LanguageModel,
    corpus: list[Sequences],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = collect_activations(model, corpus, [1], tmp_path)
    before = first[1].stat().st_mtime_ns, first[1].read_bytes()
    spy = Spy(model, monkeypatch)
    files = collect_activations(model, corpus, [1, 2], tmp_path)
    assert (files[1].stat().st_mtime_ns, files[1].read_bytes()) == before
    assert {tuple(layers) for layers in spy.layers} == {(2,)}
    n_tokens = sum(part.n_tokens for part in corpus)
    assert np.load(files[2]).shape == (n_tokens, model.d_model)
    spy.layers.clear()
    collect_activations(model, corpus, [1, 2], tmp_path)
    assert spy.layers == []


def test_a_file_that_was_removed_is_made_again(
    model: LanguageModel, corpus: list[Sequences], tmp_path: Path
) -> None:
    files = collect_activations(model, corpus, [1, 2], tmp_path)
    before = np.load(files[2])
    files[2].unlink()
    files = collect_activations(model, corpus, [1, 2], tmp_path)
    assert np.array_equal(np.load(files[2]), before)


def test_a_file_of_another_corpus_is_refused_and_kept(
    model: LanguageModel, corpus: list[Sequences], tmp_path: Path
) -> None:
    files = collect_activations(model, corpus, [1], tmp_path)
    before = files[1].read_bytes()
    with pytest.raises(InputError, match="not made from this corpus"):
        collect_activations(model, corpus[:1], [1], tmp_path)
    (tmp_path / "progress.json").unlink()
    with pytest.raises(InputError, match="not made from this corpus"):
        collect_activations(model, corpus, [1], tmp_path)
    assert files[1].read_bytes() == before


def test_residuals_beyond_float16_are_refused(
    model: LanguageModel,
    corpus: list[Sequences],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = model.residuals

    def huge(*args: Any, **options: Any) -> Any:
        found, mask = real(*args, **options)
        return {layer: resid * 1e6 for layer, resid in found.items()}, mask

    monkeypatch.setattr(model, "residuals", huge)
    with pytest.raises(ModelError, match="layer 2 overflows float16"):
        collect_activations(model, corpus, [2], tmp_path)
