"""Quantized models, loaded from a folder by the library that does it and steered, on the CPU.

How far quantization moves the logits is measured against the same weights in float32, as
‖difference‖ / ‖logits‖. Random weights are a hard case: nothing in them makes up for rounding.
"""

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from families import IDS, by_hand
from tiny import tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from saif.core.steering import Steering
from saif.decoding import Sampling, decode
from saif.runtime.batch import Row
from saif.runtime.catalog import Quantize
from saif.runtime.language_model import LanguageModel
from saif.runtime.load import load_model

D_MODEL, N_LAYERS, LAYER = 128, 4, 2
KINDS: dict[Quantize, type[nn.Module]] = {"int8": bnb.nn.Linear8bitLt, "4bit": bnb.nn.Linear4bit}

# Measured on these models with three seeds: up to 0.033 and 0.33. Half as much again may pass.
DRIFT = {"int8": 0.05, "4bit": 0.5}

# What is left once the weights are those that the quantizer made of them: sums in 16 bits and, in
# `int8`, inputs rounded to 8. Measured up to 0.022; one lost MLP costs 0.15 or more.
ARITHMETIC = 0.033


def _lm(name: str) -> Any:
    own = {"vocab_size": 258, "bos_token_id": 256, "eos_token_id": 257}
    if name == "gpt2":  # its linear layers are of a kind of their own
        return GPT2LMHeadModel(
            GPT2Config(**own, n_embd=D_MODEL, n_head=4, n_layer=N_LAYERS, n_positions=256)
        )
    shape = {
        **own,
        "hidden_size": D_MODEL,
        "intermediate_size": 2 * D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "pad_token_id": 257,
    }
    if name == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**shape))
    return LlamaForCausalLM(LlamaConfig(**shape))


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    _lm(request.param).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def full(folder: Path) -> LanguageModel:
    return load_model(str(folder))


@pytest.fixture(scope="module", params=KINDS)
def quantized(request: pytest.FixtureRequest, folder: Path) -> LanguageModel:
    return load_model(str(folder), quantize=request.param)


def linear_layers(model: LanguageModel) -> dict[str, nn.Module]:
    """The matrices inside the blocks, by name."""
    return {
        f"{index}.{name}": module
        for index, block in enumerate(model.blocks)
        for name, module in block.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
        and "norm" not in name
        and "ln_" not in name
    }


def dequantized(module: Any) -> Tensor:
    """The matrix that a quantized layer stands for, (out, in), float32."""
    weight = module.weight
    if isinstance(module, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    scales = weight.SCB if module.state.SCB is None else module.state.SCB  # moved at first use
    return weight.data.float() * (scales.float() / 127)[:, None]


def logits(model: LanguageModel, steering: Steering | None = None) -> Tensor:
    return model.prefill([Row(IDS, steering)])[1].logits[0]


def drift(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def steering_of(model: LanguageModel, share: float = 1.0) -> Steering:
    """As long as `share` of the residuals."""
    random = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(0))
    size = share * float(model.residuals([IDS], [LAYER])[0][LAYER].float().norm(dim=-1).mean())
    return Steering({LAYER: size * random / random.norm()}, "response", {LAYER: share})


def test_every_matrix_in_a_block_is_quantized_and_nothing_else_is(
    full: LanguageModel, quantized: LanguageModel
) -> None:
    matrices = linear_layers(quantized)
    assert len(matrices) >= 4 * N_LAYERS
    assert {type(module) for module in matrices.values()} == {KINDS[quantized.quantize]}
    for module in matrices.values():
        if isinstance(module, bnb.nn.Linear4bit):
            assert module.weight.quant_type == "nf4"
            assert module.weight.quant_state.nested, "the scales are not quantized"
            assert module.weight.dtype == torch.uint8  # two to a byte
        else:
            assert module.weight.dtype == torch.int8
    assert type(quantized._model.get_output_embeddings()) is nn.Linear
    assert quantized.memory < 0.3 * full.memory
    assert quantized.fingerprint == full.fingerprint  # presets of the one fit the other


def test_logits_drift_no_further_than_so_many_bits_have_to(
    full: LanguageModel, quantized: LanguageModel
) -> None:
    """And of that drift all but a little is in the weights, so no layer is lost or misplaced."""
    originals = linear_layers(full)
    # Before first use, at which four bits are laid out anew where a processor multiplies bfloat16.
    rounded = {name: dequantized(module) for name, module in linear_layers(quantized).items()}
    found = drift(logits(quantized), logits(full))
    assert 0 < found < DRIFT[quantized.quantize]
    kept = {name: module.weight.data for name, module in originals.items()}
    try:
        for name, module in originals.items():
            weight = rounded[name]
            module.weight.data = weight if isinstance(module, nn.Linear) else weight.T
        assert drift(logits(quantized), logits(full)) < ARITHMETIC
    finally:
        for name, module in originals.items():
            module.weight.data = kept[name]


def test_a_steered_step_is_the_manual_computation(quantized: LanguageModel) -> None:
    """On the same quantized blocks, so only the order of sums may differ (measured: nothing)."""
    steering = steering_of(quantized)
    expected = by_hand(quantized, IDS, len(IDS), steering).float()
    assert drift(logits(quantized, steering), expected) < 1e-3
    assert drift(by_hand(quantized, IDS, len(IDS)).float(), expected) > 0.1


def test_the_block_puts_out_what_it_did_plus_the_direction(quantized: LanguageModel) -> None:
    """To half a unit in the last place of either: the dtype has no more to give."""
    steering = steering_of(quantized, 0.3)
    before: list[Tensor] = []
    after: list[Tensor] = []
    handles = [
        quantized.blocks[LAYER].register_forward_hook(lambda _, __, out: before.append(out)),
        quantized.blocks[LAYER + 1].register_forward_pre_hook(lambda _, a: after.append(a[0])),
    ]
    batch, result = quantized.prefill([Row(IDS, steering), Row(IDS)])
    quantized.decode_step(batch, [65, 65])
    for handle in handles:
        handle.remove()
    assert result.steered == (1, 0)
    half_unit = torch.finfo(quantized._model.dtype).eps / 2
    passes = list(zip(before, after, strict=True))[-2:]  # the prompt's end, one generated token
    for old, new in passes:
        assert old.dtype == new.dtype == quantized._model.dtype
        wanted = old[0, -1].float() + steering.directions[LAYER]
        allowed = half_unit * (new[0, -1].float().abs() + steering.directions[LAYER].abs())
        assert bool(((new[0, -1].float() - wanted).abs() <= 1.01 * allowed).all())
        assert torch.equal(new[1], old[1])


def test_a_plain_row_writes_the_same_text_whatever_is_done_to_its_neighbour(
    quantized: LanguageModel,
) -> None:
    def replies(*steerings: Steering | None) -> list[tuple[list[int], str, int]]:
        """(tokens, text, steered positions) of each row."""
        length = Sampling(max_new_tokens=12)
        rows = [Row(IDS, steering=each, sampling=length) for each in steerings]
        parts = [part for step in decode(quantized, rows) for part in step]
        own = [[part for part in parts if part.row == row] for row in range(len(rows))]
        return [
            (
                [part.token_id for part in each if part.token_id is not None],
                "".join(part.text for part in each),
                sum(part.steered for part in each),
            )
            for each in own
        ]

    plain, twin = replies(None, None)
    beside, steered = replies(None, steering_of(quantized, 3.0))
    assert plain == twin == beside
    assert plain[2] == 0
    assert steered[0] != plain[0]
    assert steered[2] == len(steered[0])  # the prompt's last token, and all but the reply's last
