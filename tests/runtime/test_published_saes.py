"""SAEs in the formats they are published in, out of the hub's cache, with no network."""

from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub, jumprelu, sae_weights
from torch import Tensor

from saif.errors import SaeError
from saif.runtime.catalog import known
from saif.runtime.sae import Sae, load_sae

D_IN, D_SAE = 24, 64
RESID = 2 * torch.randn(5, D_IN, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return FakeHub(tmp_path)


def source(model: str, layer: int, release: int = 0) -> str:
    entry = known(model)
    assert entry is not None
    return entry.saes[release].source(layer)


def check(sae: Sae, layer: int, latents: Tensor, decoder: Tensor) -> None:
    """The SAE reads the layer, its latents are these, and its rows are these up to a scale that
    the activations carry the inverse of."""
    assert sae.site.layer == layer
    assert (sae.d_in, sae.d_sae) == (D_IN, D_SAE)
    found = sae.encode(RESID)
    assert 0 < int((latents > 0).sum()) < latents.numel()
    assert torch.equal(found > 0, latents > 0)
    rows = sae.decoder(range(D_SAE))
    torch.testing.assert_close(
        found[:, :, None] * rows, latents[:, :, None] * decoder, atol=1e-4, rtol=1e-3
    )
    # One latent can be read without the others.
    encoder, bias, threshold = sae.encoder(range(D_SAE))
    pre = RESID @ encoder.T + bias
    torch.testing.assert_close(jumprelu(pre, threshold), found, atol=1e-4, rtol=1e-4)


def test_gemma_scope_2(hub: FakeHub) -> None:
    weights = sae_weights(D_IN, D_SAE)
    folder = "resid_post_all/layer_25_width_16k_l0_small"
    repo = "google/gemma-scope-2-1b-it"
    hub.put_json(
        repo, f"{folder}/config.json", {"architecture": "jump_relu", "model_name": "gemma-v3-1b-it"}
    )
    lower = {name.replace("W_", "w_"): value for name, value in weights.items()}
    hub.put_tensors(repo, f"{folder}/params.safetensors", lower)
    latents = jumprelu(RESID @ weights["W_enc"] + weights["b_enc"], weights["threshold"])
    check(load_sae(source("gemma-3-1b-it", 25)), 25, latents, weights["W_dec"])


def test_llama_scope_whose_input_is_scaled(hub: FakeHub) -> None:
    weights = sae_weights(D_IN, D_SAE)
    folder = "Llama3_1-8B-Base-L31R-8x"
    repo = "fnlp/Llama3_1-8B-Base-LXR-8x"
    norm = 9.0
    hub.put_json(
        repo,
        f"{folder}/hyperparams.json",
        {
            "d_model": D_IN,
            "d_sae": D_SAE,
            "jump_relu_threshold": 0.4,
            "hook_point_in": "blocks.31.hook_resid_post",
            "dataset_average_activation_norm": {"in": norm, "out": norm},
        },
    )
    hub.put_tensors(
        repo,
        f"{folder}/checkpoints/final.safetensors",
        {
            "encoder.weight": weights["W_enc"].T,
            "decoder.weight": weights["W_dec"].T,
            "encoder.bias": weights["b_enc"],
            "decoder.bias": weights["b_dec"],
        },
    )
    sae = load_sae(source("llama-3.1-8b", 31))
    # sae-lens holds the release's own scale; what comes out is in the residual stream's units.
    published = 0.8590604026845637
    pre = (RESID * published) @ weights["W_enc"] + weights["b_enc"]
    latents = jumprelu(pre, 0.4 * D_IN**0.5 / norm)
    check(sae, 31, latents, weights["W_dec"] / published)


def test_batch_topk_of_dictionary_learning(hub: FakeHub) -> None:
    weights = sae_weights(D_IN, D_SAE)
    folder = "resid_post_layer_27/trainer_1"
    repo = "andyrdt/saes-qwen2.5-7b-instruct"
    hub.put_json(
        repo,
        f"{folder}/config.json",
        {
            "trainer": {
                "layer": 27,
                "dict_class": "BatchTopKSAE",
                "k": 8,
                "activation_dim": D_IN,
                "dict_size": D_SAE,
                "lm_name": "Qwen/Qwen2.5-7B-Instruct",
            },
            "buffer": {"ctx_len": 1024},
        },
    )
    hub.put_checkpoint(
        repo,
        f"{folder}/ae.pt",
        {
            "encoder.weight": weights["W_enc"].T.contiguous(),
            "decoder.weight": weights["W_dec"].T.contiguous(),
            "encoder.bias": weights["b_enc"],
            "b_dec": weights["b_dec"],
            "threshold": torch.tensor(0.9),
            "k": torch.tensor(8),
        },
    )
    pre = (RESID - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    sae = load_sae(source("qwen2.5-7b-instruct", 27))
    check(sae, 27, jumprelu(pre, 0.9), weights["W_dec"])


def test_an_sae_that_is_not_in_the_cache_is_refused_in_one_line(hub: FakeHub) -> None:
    for name in (source("gemma-2-2b", 25), source("gemma-3-1b-it", 25), "no-such-release/x"):
        with pytest.raises(SaeError) as refused:
            load_sae(name)
        assert "\n" not in refused.value.sentence
        assert f"The SAE '{name}' could not be loaded" in str(refused.value)
