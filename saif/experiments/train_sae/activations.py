"""Residual streams of a corpus on disk, one float16 array per layer, made once and resumable."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    record = folder / "progress.json"
    shape = (n_tokens, model.d_model)
    progress = _read_progress(record, files, shape)
    pending = [layer for layer in layers if progress[str(layer)][0] < len(batches)]
    if not pending:
        return files
    done, written = min(progress[str(layer)] for layer in pending)

    def save(done: int) -> None:
        progress.update({str(layer): (done, written) for layer in pending})
        replace_file(record, json.dumps(progress).encode())

    save(done)  # first, so that no array is ever without its record
    arrays = {
        layer: np.lib.format.open_memmap(
            files[layer], "r+" if files[layer].is_file() else "w+", dtype=np.float16, shape=shape
        )
        for layer in pending
    }
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
            save(number + 1)
    return files


def _read_progress(
    record: Path, files: Mapping[int, Path], shape: tuple[int, int]
) -> dict[str, tuple[int, int]]:
    """How far each layer's array has been written: layer -> (batches, rows). A layer whose file is
    gone starts anew; a file that is unknown or doesn't fit is refused."""
    progress = json.loads(record.read_text("utf-8")) if record.is_file() else {}
    for layer, path in files.items():
        if not path.is_file():
            progress[str(layer)] = (0, 0)
        elif str(layer) not in progress or np.load(path, mmap_mode="r").shape != shape:
            raise InputError(
                f"{path} was not made from this corpus.",
                hint="Move it away, or give another --work folder.",
            )
    return {layer: tuple(reached) for layer, reached in progress.items()}


def _batches(part: Sequences) -> list[list[list[int]]]:
    """Sequences of like length together, about as many tokens in every batch."""
    batches: list[list[list[int]]] = []
    for ids in sorted(part.token_ids, key=len):
        if batches and (len(batches[-1]) + 1) * (len(ids) - part.skip) <= _TOKENS_PER_BATCH:
            batches[-1].append(ids)
        else:
            batches.append([ids])
    return batches
