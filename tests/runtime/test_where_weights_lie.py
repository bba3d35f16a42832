"""Weights that accelerate keeps elsewhere: a push is the same push, wherever its block lies."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from tiny import N_LAYERS, tiny_model, tiny_steering

from saif.runtime.batch import RowStart
from saif.runtime.model import SteerableModel

PROMPT = list(b"Tell me about the sea.")
PARTS = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]


def on_disk(made: SteerableModel, folder: Path) -> None:
    """Every weight."""
    disk_offload(made._model, str(folder), execution_device=torch.device("cpu"))


def partly_on_disk(made: SteerableModel, folder: Path) -> None:
    """As `device_map="auto"` does where memory is short: some blocks here, some there."""
    places = {part: "cpu" for part in PARTS}
    places |= {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(N_LAYERS)}
    dispatch_model(made._model, places, main_device="cpu", offload_dir=str(folder))


def in_ram(made: SteerableModel, folder: Path) -> None:
    cpu_offload(made._model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("offload", [on_disk, partly_on_disk, in_ram])
def test_offloaded_blocks_are_steered_like_the_others(offload: object, tmp_path: Path) -> None:
    plain, made = tiny_model(), tiny_model()
    offload(made, tmp_path)  # type: ignore[operator]
    moved = SteerableModel(made.model_id, made._model, made.tokenizer)
    assert moved.device == torch.device("cpu")
    for layer in (0, 1, N_LAYERS - 1):
        starts = [RowStart(PROMPT, tiny_steering(layer)), RowStart(PROMPT)]
        results = [model.start(starts) for model in (plain, moved)]
        torch.testing.assert_close(results[0][1].logits, results[1][1].logits)
        assert results[1][1].steered == (1, 0)
        again = [m.advance(b, [65, 66]) for m, (b, _) in zip((plain, moved), results, strict=True)]
        torch.testing.assert_close(again[0].logits, again[1].logits)
    residuals = [model.residuals([PROMPT], [1])[0][1] for model in (plain, moved)]
    torch.testing.assert_close(*residuals)
    words = [model.raised_tokens(torch.randn(2, 32), 3).shape for model in (plain, moved)]
    assert words[0] == words[1]
    assert plain.fingerprint == moved.fingerprint
