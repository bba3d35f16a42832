"""Small models that the torch step and the C step support, rows for them, and C libraries."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer, together
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from saif.core.steering import Steering
from saif.core.types import Span
from saif.decoding import Sampling, decode
from saif.runtime.batch import Row
from saif.runtime.cpu import build
from saif.runtime.cpu.c_step import CDecoder
from saif.runtime.language_model import LanguageModel

PROMPTS = [list(b"Hi"), list(b"Tell me about the sea."), list(b"What? ")]
KINDS = ("llama", "mistral", "qwen2", "qwen3")


def small(kind: str, **options: Any) -> LanguageModel:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "sliding_window": None,
    }
    config = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **{**sizes, **options})
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # norms and biases that do something
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    made = LanguageModel(f"tests/{kind}", model, tokenizer)
    for block in made.blocks:
        if hasattr(block, "self_attn"):
            block.self_attn.scaling = 0.3  # not what a head's width alone says
    return made


def steering(model: LanguageModel, layer: int, span: Span, seed: int = 0) -> Steering:
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed))
    return Steering({layer: direction}, span, {layer: 0.5})


def rows_of(model: LanguageModel, span: Span = "response", **sampling: Any) -> list[Row]:
    """Mixed lengths, steerings and layers, and rows that end on the way."""
    return [
        Row(ids, steering=spec, sampling=Sampling(max_new_tokens=n, **sampling))
        for ids, spec, n in [
            (PROMPTS[0], steering(model, 1, span), 24),
            (PROMPTS[1], None, 9),
            (PROMPTS[2], together(steering(model, 2, "all", 4), steering(model, 0, "all", 5)), 16),
            (PROMPTS[1] * 3, steering(model, 0, span, 6), 24),
        ]
    ]


def run(model: LanguageModel, rows: Sequence[Row]) -> list[list[tuple[Any, ...]]]:
    found: list[list[tuple[Any, ...]]] = [[] for _ in rows]
    for step in decode(model, rows):
        for row in step:
            found[row.row].append((row.token_id, row.text, row.steered, row.stop))
    return found


def logits_of(model: LanguageModel, starts: list[Row], n_steps: int = 6) -> torch.Tensor:
    batch, result = model.prefill(starts)
    every = [result.logits]
    for token in range(65, 65 + n_steps):
        every.append(model.decode_step(batch, [token] * len(starts)).logits)
    return torch.stack(every)


def on_a_grid(model: LanguageModel) -> LanguageModel:
    """The model with weights as they come out of a GGUF file: 4 bits in linear layers, 8 in the
    embedding, in groups of 32."""
    with torch.no_grad():
        for parameter in model._model.parameters():
            if parameter.ndim == 2:
                groups = parameter.data.reshape(len(parameter), -1, 32)
                size = groups.abs().amax(dim=-1, keepdim=True).div(127).half().float()
                rounded = (groups / size).round() * size
                if parameter is not model._model.get_output_embeddings().weight:
                    low = groups.amin(dim=-1, keepdim=True).half().float()
                    step = ((groups.amax(dim=-1, keepdim=True) - low) / 15).half().float()
                    rounded = ((groups - low) / step).round().clamp(0, 15) * step + low
                parameter.data.copy_(rounded.reshape(parameter.shape))
    return model


def compiled(kind: str, library: ctypes.CDLL, **options: Any) -> LanguageModel:
    """Such a model, decoding with the C step."""
    model = on_a_grid(small(kind, **options))
    model.use_fast_decoder(library)
    assert isinstance(model.decoder, CDecoder)
    return model


def compile_with(folder: Path, *options: str) -> ctypes.CDLL:
    """The C step for this processor, with further compiler options. Raises ModelError."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_OPTIONS", (*build._OPTIONS, *options))
        patch.setenv("SAIF_CACHE", str(folder))
        build.library.cache_clear()
        if build.library() is None:
            build.compile_library()
        library = build.library()
    build.library.cache_clear()
    assert library is not None
    return library
