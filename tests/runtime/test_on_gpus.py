"""What only a GPU can show: several of them, and a quantized model of a published size.

Run with `pytest -m gpu`; each test skips where its devices are missing.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import IDS, by_hand, family_model
from tiny import tiny_steering, tiny_tokenizer
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from saif.core.steering import LatentEncoder, Steering
from saif.core.types import Schedule
from saif.experiments.identify import output_scores
from saif.runtime.batch import Row
from saif.runtime.catalog import Quantize, known
from saif.runtime.language_model import LanguageModel
from saif.runtime.load import load_model

pytestmark = pytest.mark.gpu
DEPTH = 6
FIRST, LAST = "cuda:0", "cuda:1"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3.5", "gpt-oss"])
def test_a_model_over_two_gpus_is_steered_like_one_on_the_cpu(name: str, tmp_path: Path) -> None:
    plain = family_model(name, n_layers=DEPTH, spread=0.05)
    plain._model.save_pretrained(tmp_path)
    places = {f"model.layers.{i}": FIRST if i < DEPTH // 2 else LAST for i in range(DEPTH)}
    places |= {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.norm": LAST}
    tied = plain._model.config.tie_word_embeddings
    places["lm_head"] = FIRST if tied else LAST
    split = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=places)
    moved = LanguageModel(plain.model_id, split, plain.tokenizer)
    for layer in (0, DEPTH // 2 - 1, DEPTH // 2, DEPTH - 1):
        steering = tiny_steering(layer, size=1.0)
        batch, result = moved.prefill([Row(IDS, steering), Row(IDS[:5])])
        assert result.steered == (1, 0)
        batch.keep([1, 0])
        again = moved.decode_step(batch, [65, 66])
        expected = by_hand(plain, IDS, len(IDS), steering)
        torch.testing.assert_close(result.logits[0].cpu(), expected, atol=1e-4, rtol=1e-4)
        later = by_hand(plain, [*IDS, 66], len(IDS), steering)
        torch.testing.assert_close(again.logits[1].cpu(), later, atol=1e-4, rtol=1e-4)
    shape = (4, plain.d_model)
    reader = LatentEncoder(torch.ones(shape), torch.ones(4), torch.zeros(4), torch.ones(shape))
    kept = Schedule(keep_norm=True)
    clamping = replace(tiny_steering(DEPTH - 1), clamped={DEPTH - 1: reader}, schedule=kept)
    clamped = [m.prefill([Row(IDS, clamping)])[1].logits.cpu() for m in (moved, plain)]
    torch.testing.assert_close(*clamped, atol=1e-4, rtol=1e-4)
    vectors = torch.randn(3, plain.d_model, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved.raised_tokens(vectors, 4), plain.raised_tokens(vectors, 4))
    rows = [(IDS, [65, 66]), (IDS[:9], [67])]
    found = zip(moved.log_probabilities(rows), plain.log_probabilities(rows), strict=True)
    for here, there in found:
        torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)
    loss = moved.next_token_loss([IDS, IDS[:9]], skip=1)
    assert loss == pytest.approx(plain.next_token_loss([IDS, IDS[:9]], skip=1), abs=1e-4)
    residuals, _ = moved.residuals([IDS], [0, DEPTH - 1])
    for layer, resid in plain.residuals([IDS], [0, DEPTH - 1])[0].items():
        torch.testing.assert_close(residuals[layer].cpu(), resid, atol=1e-4, rtol=1e-4)
    steering_hooks = [output_scores(model, vectors, DEPTH - 1, 1.0) for model in (moved, plain)]
    assert steering_hooks[0] == pytest.approx(steering_hooks[1], abs=1e-3)


@pytest.fixture(scope="module")
def gemma_2_2b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every shape that of the published model, 2.6 billion random numbers."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Gemma2ForCausalLM(Gemma2Config()).to(torch.bfloat16)
    folder = tmp_path_factory.mktemp("gemma-2-2b")
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("quantize", ["none", "int8", "4bit"])
def test_a_model_of_gemma_2_2bs_size_is_steered_in_every_mode(
    quantize: Quantize, gemma_2_2b: Path, record_property: Callable[[str, object], None]
) -> None:
    """Memory and steps per second go into the report (`--junit-xml`)."""
    entry = known("gemma-2-2b")
    assert entry is not None
    torch.cuda.reset_peak_memory_stats()
    model = load_model(str(gemma_2_2b), quantize=quantize)
    assert model.n_layers == entry.n_layers
    assert model.memory == pytest.approx(entry.size.bytes(quantize), rel=0.1)
    layer = model.n_layers - 1
    norm = float(model.residuals([IDS], [layer])[0][layer].float().norm(dim=-1).mean())
    random = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    steering = Steering({layer: norm * random / random.norm()}, "response", {layer: 1.0})

    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    norm_after = model._model.model.norm
    handles = [
        model.blocks[layer].register_forward_hook(lambda _, __, out: before.append(out)),
        norm_after.register_forward_pre_hook(lambda _, given: after.append(given[0])),
    ]
    batch, result = model.prefill([Row(IDS, steering), Row(IDS)])
    for handle in handles:
        handle.remove()
    assert result.steered == (1, 0)
    moved = (after[-1] - before[-1])[:, -1].float().cpu()
    wanted = torch.stack([steering.directions[layer], torch.zeros(model.d_model)])
    step = 2**-7 * float(after[-1].abs().max())  # bfloat16 has eight bits
    torch.testing.assert_close(moved, wanted, atol=step, rtol=0.01)

    model.decode_step(batch, [65, 65])
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(32):
        assert model.decode_step(batch, [65, 65]).steered == (1, 0)
    torch.cuda.synchronize()
    record_property("steps_per_second", round(32 / (time.perf_counter() - started), 1))
    record_property("memory_gb", round(model.memory / 1e9, 2))
    record_property("peak_gb", round(torch.cuda.max_memory_allocated() / 1e9, 2))
