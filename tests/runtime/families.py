"""Every family of models that saif knows: the real classes at any depth, narrow, random weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tiny import tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from saif.core.steering import Steering
from saif.runtime.language_model import LanguageModel

N_LAYERS = 4
REAL_DEPTH = {
    "gpt2": 12,
    "llama": 32,
    "gemma2": 26,
    "gemma3": 26,
    "gemma3-vision": 34,
    "qwen2": 28,
    "qwen3": 28,
    "qwen3.5": 24,
    "gpt-oss": 24,
}
WINDOW = 8
SLIDING = ("gemma2", "gemma3", "gemma3-vision", "gpt-oss")
IDS = list(b"Tell me about the sea and the fishes in it.")  # longer than a sliding window

Shape = dict[str, Any]


def _gpt2(shape: Shape) -> GPT2LMHeadModel:
    own = {"n_embd": 32, "n_head": 4, "n_layer": shape["num_hidden_layers"], "n_positions": 256}
    same = ("vocab_size", "bos_token_id", "eos_token_id", "initializer_range")
    return GPT2LMHeadModel(GPT2Config(**own, **{name: shape[name] for name in same}))


def _llama_like(shape: Shape) -> Shape:
    return {**shape, "num_key_value_heads": 2, "head_dim": 8}


def _gemma(shape: Shape) -> Shape:
    return {**_llama_like(shape), "sliding_window": WINDOW, "query_pre_attn_scalar": 8}


def _gemma3_vision(shape: Shape) -> Gemma3ForConditionalGeneration:
    """As gemma-3-4b-it is published; its vision tower is as deep as the text model here."""
    tower = {**shape, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=_gemma(shape), vision_config=tower, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def _gpt_oss(shape: Shape) -> GptOssForCausalLM:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return GptOssForCausalLM(GptOssConfig(**_llama_like(shape), **experts, sliding_window=WINDOW))


def _qwen3_5(shape: Shape) -> Qwen3_5ForCausalLM:
    """Three blocks of linear attention, whose state has no positions, and one of the usual kind."""
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    widths = {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**_llama_like(shape), **heads, **widths))


FAMILIES: dict[str, Callable[[Shape], Any]] = {
    "gpt2": _gpt2,
    "gpt-neox": lambda shape: GPTNeoXForCausalLM(GPTNeoXConfig(**shape)),
    "gpt-oss": _gpt_oss,
    "llama": lambda shape: LlamaForCausalLM(LlamaConfig(**_llama_like(shape))),
    "gemma2": lambda shape: Gemma2ForCausalLM(
        Gemma2Config(**_gemma(shape), final_logit_softcapping=5.0)
    ),
    "gemma3": lambda shape: Gemma3ForCausalLM(Gemma3TextConfig(**_gemma(shape))),
    "gemma3-vision": _gemma3_vision,
    "qwen2": lambda shape: Qwen2ForCausalLM(Qwen2Config(**shape, num_key_value_heads=2)),
    "qwen3": lambda shape: Qwen3ForCausalLM(Qwen3Config(**_llama_like(shape))),
    "qwen3.5": _qwen3_5,
}


def family_model(name: str, *, n_layers: int = N_LAYERS, spread: float = 0.2) -> LanguageModel:
    """A model of the family. spread: of its random weights; the wider, the more a rounding error
    grows on its way through the blocks."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None  # as GPT-2 has it
    shape = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 4,
        "initializer_range": spread,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": None,
    }
    model = FAMILIES[name](shape)
    for parameter in model.parameters():  # norms of all ones would hide one that is left out
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return LanguageModel(f"tests/{name}", model, tokenizer)


def by_hand(
    model: LanguageModel, ids: Sequence[int], n_prompt: int, steering: Steering | None = None
) -> Tensor:
    """Next-token logits (vocab,) by transformers alone: every token read at once, no cache, no
    padding, no hooks, only blocks that add to what they put out. Control tokens are not spared."""
    first = 0 if steering and steering.span == "all" else n_prompt - 1
    with torch.no_grad(), _adding(model.blocks, steering, len(ids), first):
        return model._model(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]


@contextmanager
def _adding(
    blocks: Sequence[nn.Module], steering: Steering | None, n_tokens: int, first: int
) -> Iterator[None]:
    """Blocks that add their direction from position `first` on."""
    directions = steering.directions if steering else {}
    try:
        for layer, direction in directions.items():
            push = torch.zeros(n_tokens, len(direction))
            push[first:] = direction

            def forward(
                *args: object, block: nn.Module = blocks[layer], push: Tensor = push, **more: object
            ) -> Any:
                resid = type(block).forward(block, *args, **more)
                return resid + push.to(resid)

            blocks[layer].forward = forward  # type: ignore[method-assign]
        yield
    finally:
        for layer in directions:
            vars(blocks[layer]).pop("forward", None)
