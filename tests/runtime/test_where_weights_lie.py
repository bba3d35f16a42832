"""Weights that accelerate keeps elsewhere: steering is the same, wherever its block lies."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from families import by_hand, family_model
from tiny import D_MODEL, N_LAYERS, tiny_model, tiny_steering
from transformers import AutoModelForCausalLM

from saif.core.steering import add_direction
from saif.runtime.batch import Row
from saif.runtime.language_model import LanguageModel

PROMPT = list(b"Tell me about the sea.")
PARTS = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]


def on_disk(made: LanguageModel, folder: Path) -> None:
    """Every weight."""
    disk_offload(made._model, str(folder), execution_device=torch.device("cpu"))


def partly_on_disk(made: LanguageModel, folder: Path) -> None:
    """As `device_map="auto"` does where memory is short: some blocks here, some there."""
    places = {part: "cpu" for part in PARTS}
    places |= {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(N_LAYERS)}
    dispatch_model(made._model, places, main_device="cpu", offload_dir=str(folder))


def in_ram(made: LanguageModel, folder: Path) -> None:
    cpu_offload(made._model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("offload", [on_disk, partly_on_disk, in_ram])
def test_offloaded_blocks_are_steered_like_the_others(offload: object, tmp_path: Path) -> None:
    plain, made = tiny_model(), tiny_model()
    offload(made, tmp_path)  # type: ignore[operator]
    moved = LanguageModel(made.model_id, made._model, made.tokenizer)
    assert moved.device == torch.device("cpu")
    for layer in (0, 1, N_LAYERS - 1):
        starts = [Row(PROMPT, tiny_steering(layer)), Row(PROMPT)]
        results = [model.prefill(starts) for model in (plain, moved)]
        torch.testing.assert_close(results[0][1].logits, results[1][1].logits)
        assert results[1][1].steered == (1, 0)
        (one, _), (other, _) = results
        again = [plain.decode_step(one, [65, 66]), moved.decode_step(other, [65, 66])]
        torch.testing.assert_close(again[0].logits, again[1].logits)
    residuals = [model.residuals([PROMPT], [1])[0][1] for model in (plain, moved)]
    torch.testing.assert_close(*residuals)
    words = [model.raised_tokens(torch.randn(2, 32), 3).shape for model in (plain, moved)]
    assert words[0] == words[1]
    assert plain.fingerprint == moved.fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_steered_wherever_its_device_map_puts_each_block(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """A folder loaded with a map, a head tied to the embedding, blocks here and there."""
    made = family_model("gemma2")
    made._model.save_pretrained(tmp_path / "model")
    places = {part: "cpu" for part in PARTS} | {"model.norm": "disk"}
    places |= {f"model.layers.{i}": "disk" if i >= 2 else "cpu" for i in range(N_LAYERS)}
    split, whole = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype, **options)
        for options in ({"device_map": places, "offload_folder": str(tmp_path / "disk")}, {})
    )
    lying = [{p.device.type for p in block.parameters()} for block in split.model.layers]
    assert lying == [{"cpu"}, {"cpu"}, {"meta"}, {"meta"}]
    moved = LanguageModel("tests/split", split, made.tokenizer)
    for layer in (1, 2, N_LAYERS - 1):
        steering = tiny_steering(layer)
        seen: list[torch.Tensor] = []
        block = moved.blocks[layer]
        handle = block.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out))
        _, result = moved.prefill([Row(PROMPT, steering)])
        handle.remove()
        assert (seen[0].dtype, seen[0].device.type) == (dtype, "cpu")
        assert result.steered == (1,)
        plain = LanguageModel("tests/whole", whole, made.tokenizer)
        expected = by_hand(plain, PROMPT, len(PROMPT), steering).float()
        torch.testing.assert_close(result.logits[0], expected)
    vectors = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(2))
    words = [model.raised_tokens(vectors, 4) for model in (moved, plain)]
    assert torch.equal(*words)


def test_a_direction_goes_to_the_device_and_dtype_of_its_block() -> None:
    """There is one device here that computes. `meta` does not, so no number is looked at; but it
    lets nothing from elsewhere be added, as a second GPU would not."""
    resid = torch.zeros(3, 5, D_MODEL, dtype=torch.bfloat16, device="meta")
    direction = torch.ones(3, D_MODEL)
    with pytest.raises(RuntimeError, match="device"):
        resid + direction[:, None]
    edited = add_direction(resid, direction, torch.ones(3, 5), keep_norm=[1])
    assert (edited.device.type, edited.dtype) == ("meta", torch.bfloat16)
