"""A real transformers model with random weights and a real tokenizer, made in milliseconds.

Every code path of a big model runs on it; nothing is downloaded. One token is one byte.
"""

from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saif.core.steering import Steering
from saif.core.types import PLACEMENTS, Placement, Span
from saif.presets.library import Library, write_preset
from saif.presets.preset import (
    Latent,
    LayerTable,
    LayerVectors,
    LoadedPreset,
    ModelRef,
    PlacementPreset,
    Preset,
    SaeRef,
)
from saif.presets.spec import LatentSource, SteeringSpec
from saif.runtime.language_model import LanguageModel

D_MODEL, N_LAYERS = 32, 4
MODEL_ID = "tests/tiny-llama"
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=_TEMPLATE,
    )


def tiny_model(
    seed: int = 0, model_id: str = MODEL_ID, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=2 * D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,  # wide enough that greedy text is not one token for ever
    )
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():  # norms of all ones would give every seed one fingerprint
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return LanguageModel(model_id, model.to(dtype), tokenizer)


def tiny_steering(
    layer: int = 1, *, span: Span = "response", size: float = 4.0, seed: int = 0
) -> Steering:
    """A random direction of length `size`, beside residuals of length 6 or so."""
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return Steering({layer: direction * (size / float(direction.norm()))}, span, {layer: size / 6})


def together(*steerings: Steering) -> Steering:
    """One steering of several, each at layers of its own."""
    return replace(
        steerings[0],
        directions={layer: v for one in steerings for layer, v in one.directions.items()},
        dose={layer: dose for one in steerings for layer, dose in one.dose.items()},
    )


def tiny_preset(model: LanguageModel, name: str = "translate-french", m: int = 8) -> LoadedPreset:
    """Eight made-up latents at layers 1 and 3, calibrated to nothing in particular."""
    generator = torch.Generator().manual_seed(1)
    layers = (1, 3)
    vectors = {
        layer: LayerVectors(
            ids=list(range(10, 10 + m)),
            decoder=torch.randn(m, model.d_model, generator=generator),
            encoder=torch.randn(m, model.d_model, generator=generator),
            bias=torch.zeros(m),
            threshold=torch.zeros(m),
            mean_difference={
                p: torch.randn(model.d_model, generator=generator) for p in PLACEMENTS
            },
        )
        for layer in layers
    }
    return LoadedPreset(_card(model, name, layers, m), vectors)


def _card(model: LanguageModel, name: str, layers: tuple[int, ...], m: int) -> Preset:
    def part(placement: Placement) -> PlacementPreset:
        sign = 1.0 if placement == "pre" else -1.0
        latents = [
            Latent(
                id=10 + j,
                sensitivity=1 - j / 10,
                other_sensitivity=0.1,
                mean=1.0 + j,
                std=0.5,
                delta=sign * (m - j) * (-1) ** j,
                delta_std=0.5,
                output_score=float(j % 3),
                words=[f" word{j}", f" other{j}"],
            )
            for j in range(m)
        ]
        sae = SaeRef(id="tests/tiny-sae", sha256="0" * 64)
        return PlacementPreset(
            layers=[
                LayerTable(layer=layer, sae=sae, residual_norm=6.0, latents=latents)
                for layer in layers
            ],
            choice=SteeringSpec(
                layer=1, latents=LatentSource(selection="signed", rule="delta", k=4), dose=1.0
            ),
            scores=None,
        )

    return Preset(
        schema_version=1,
        id=name,
        title=name.replace("-", " ").capitalize(),
        instruction=name,
        model=ModelRef(
            id=model.model_id,
            fingerprint=model.fingerprint,
            n_layers=model.n_layers,
            d_model=model.d_model,
        ),
        placements={placement: part(placement) for placement in PLACEMENTS},
        versions={"saif": "test"},
    )


def tiny_library(root: Path, model: LanguageModel) -> Library:
    """A presets folder with the shipped instructions and two presets for the tiny model."""
    (root / "instructions").symlink_to(Library().root / "instructions")
    library = Library(root)
    for name in ("translate-french", "question"):
        write_preset(library.model_folder(model.model_id), tiny_preset(model, name))
    return library
