"""Residual streams of a corpus on disk, one float16 array per layer, made once and resumable."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from saif.errors import InputError, ModelError
from saif.experiments.train_sae.corpus import Sequences
from saif.files import replace_file
from saif.progress import track
from saif.runtime.language_model import LanguageModel

_TOKENS_PER_BATCH = 2048


def collect_activations(
    model: LanguageModel, corpus: Sequence[Sequences], layers: Sequence[int], folder: Path
) -> dict[int, Path]:
    """Write the residual stream of every token of `corpus` after each of `layers`.

    Returns one `.npy` file per layer, (n_tokens, d_model) float16, rows in the same order in
    all. An interrupted run goes on with the batch it was at. Raises InputError rather than write
    over a file that this corpus did not make.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n_tokens = sum(part.n_tokens for part in corpus)
    files = {layer: folder / f"layer-{layer}.npy" for layer in layers}
    batches = [(part.skip, batch) for part in corpus for batch in _batches(part)]
    progress = _Progress(folder / "progress.json")
    progress.check(files, (n_tokens, model.d_model))
    pending = [layer for layer in layers if progress.of(layer)[0] < len(batches)]
    if not pending:
        return files
    done, written = min(progress.of(layer) for layer in pending)
    progress.save(pending, done, written)  # first, so that no array is ever without its record
    arrays = {layer: _array(files[layer], n_tokens, model.d_model) for layer in pending}
    for number, (skip, batch) in enumerate(track(batches, f"Residuals of {n_tokens:,} tokens")):
        if number < done:
            continue
        residuals, mask = model.residuals(batch, pending, skip=skip)
        for layer, resid in residuals.items():
            rows = resid[mask.to(resid.device)].to("cpu", torch.float16)
            if not bool(torch.isfinite(rows).all()):
                raise ModelError(f"The residual stream after layer {layer} overflows float16.")
            arrays[layer][written : written + len(rows)] = rows.numpy()
        written += int(mask.sum())
        if number % 20 == 19 or number == len(batches) - 1:
            for array in arrays.values():
                array.flush()
            progress.save(pending, number + 1, written)
    return files


class _Progress:
    """How far each layer's array has been written: layer -> (batches, rows)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state: dict[str, list[int]] = (
            json.loads(path.read_text("utf-8")) if path.is_file() else {}
        )

    def of(self, layer: int) -> tuple[int, int]:
        batches, rows = self._state.get(str(layer), (0, 0))
        return batches, rows

    def check(self, files: Mapping[int, Path], shape: tuple[int, int]) -> None:
        """Forget layers whose file is gone; refuse files that are unknown or don't fit."""
        for layer, path in files.items():
            if not path.is_file():
                self._state.pop(str(layer), None)
            elif str(layer) not in self._state or np.load(path, mmap_mode="r").shape != shape:
                raise InputError(
                    f"{path} was not made from this corpus.",
                    hint="Move it away, or give another --work folder.",
                )

    def save(self, layers: Sequence[int], batches: int, rows: int) -> None:
        self._state.update({str(layer): [batches, rows] for layer in layers})
        replace_file(self._path, json.dumps(self._state).encode())


def _array(path: Path, n_tokens: int, d_model: int) -> np.memmap:
    mode: Literal["r+", "w+"] = "r+" if path.is_file() else "w+"
    return np.lib.format.open_memmap(path, mode, dtype=np.float16, shape=(n_tokens, d_model))


def _batches(part: Sequences) -> list[list[list[int]]]:
    """Sequences of like length together, about as many tokens in every batch."""
    ordered = sorted(part.token_ids, key=len)
    batches: list[list[list[int]]] = []
    batch: list[list[int]] = []
    for ids in ordered:
        if batch and (len(batch) + 1) * (len(ids) - part.skip) > _TOKENS_PER_BATCH:
            batches.append(batch)
            batch = []
        batch.append(ids)
    return [*batches, batch] if batch else batches
