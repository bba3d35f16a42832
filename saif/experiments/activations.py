"""Residual streams of a corpus on disk, one float16 array per layer, made once and resumable."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from saif.errors import ModelError
from saif.experiments.corpus import Sequences
from saif.experiments.progress import track
from saif.runtime.model import SteerableModel

_TOKENS_PER_BATCH = 2048


def collect_activations(
    model: SteerableModel, corpus: Sequence[Sequences], layers: Sequence[int], folder: Path
) -> dict[int, Path]:
    """Write the residual stream of every token of `corpus` after each of `layers`.

    Returns one `.npy` file per layer, (n_tokens, d_model) float16, rows in the same order in
    all. An interrupted run goes on with the batch it was at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n_tokens = sum(part.n_tokens for part in corpus)
    files = {layer: folder / f"layer-{layer}.npy" for layer in layers}
    state = folder / f"progress-{'-'.join(map(str, layers))}.json"
    done, written = json.loads(state.read_text("utf-8")) if state.is_file() else (0, 0)
    arrays = {
        layer: np.lib.format.open_memmap(
            path,
            mode="r+" if done and path.is_file() else "w+",
            dtype=np.float16,
            shape=(n_tokens, model.d_model),
        )
        for layer, path in files.items()
    }
    batches = [(part.skip, batch) for part in corpus for batch in _batches(part)]
    for number, (skip, batch) in enumerate(track(batches, f"Residuals of {n_tokens:,} tokens")):
        if number < done:
            continue
        residuals, mask = model.residuals(batch, layers, skip=skip)
        for layer, resid in residuals.items():
            rows = resid[mask].to("cpu", torch.float16)
            if not bool(torch.isfinite(rows).all()):
                raise ModelError(f"The residual stream after layer {layer} overflows float16.")
            arrays[layer][written : written + len(rows)] = rows.numpy()
        written += int(mask.sum())
        if number % 20 == 19 or number == len(batches) - 1:
            for array in arrays.values():
                array.flush()
            state.write_text(json.dumps([number + 1, written]), "utf-8")
    return files


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
