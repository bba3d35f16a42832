"""The torch step: one decoding step of a Llama-shaped model on a CPU, in plain tensor calls.

With one token per row the arithmetic of a small model takes a few milliseconds, and calling a
hundred modules takes longer than that. This computes the same with the same float32 weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from saif.runtime.batch import Batch
from saif.runtime.steering_hook import SteeringHook

_LAYER_CLASSES = {
    "LlamaDecoderLayer",
    "MistralDecoderLayer",
    "Qwen2DecoderLayer",
    "Qwen3DecoderLayer",
}


class TorchDecoder:
    """A `Decoder` in PyTorch calls, on the model's own weights."""

    bytes = 0

    def __init__(self, model: Any, blocks: Sequence[Any]) -> None:
        inner = model.model
        self._embed, self._norm, self._rotary = inner.embed_tokens, inner.norm, inner.rotary_emb
        self._head = model.get_output_embeddings()
        self._blocks = list(blocks)

    def describe(self) -> str:
        return f"not compiled, {counted_threads(torch.get_num_threads())}"

    def step(self, batch: Batch, edits: Mapping[int, SteeringHook]) -> Tensor:
        """See `Decoder.step`."""
        resid = self._embed(torch.tensor([row.token_ids[-1] for row in batch.rows]))
        lengths = [len(row.token_ids) for row in batch.rows]
        cos, sin = self._rotary(resid, torch.tensor([[length - 1] for length in lengths]))
        half = sin.shape[-1] // 2
        # Rotating a pair is x·cos + swapped(x)·(∓ sin): the sign goes to the sine once for all.
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        bias = None
        if min(lengths) < batch.width:
            bias = torch.zeros_like(batch.attention_mask, dtype=resid.dtype)
            bias = bias.masked_fill_(batch.attention_mask == 0, -torch.inf)[:, None, None]
        for layer, block in enumerate(self._blocks):
            attention, mlp = block.self_attn, block.mlp
            normed = _rms_norm(resid, block.input_layernorm)
            projections = (attention.q_proj, attention.k_proj, attention.v_proj)
            heads = torch.cat([project(normed) for project in projections], dim=1)
            attended = self._attend(attention, heads, (cos, sin), bias, batch.cache)
            resid = resid + attention.o_proj(attended)
            normed = _rms_norm(resid, block.post_attention_layernorm)
            resid = resid + mlp.down_proj(F.silu(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed)))
            if layer in edits:
                resid = edits[layer](resid[:, None])[:, 0]
        return self._head(_rms_norm(resid, self._norm))

    def _attend(
        self, attention: Any, heads: Tensor, rope: tuple[Tensor, Tensor], bias: Any, cache: Any
    ) -> Tensor:
        """heads (rows, all heads · width), queries then keys then values -> (rows, queries)."""
        width, groups = attention.head_dim, attention.num_key_value_groups
        rows, n_heads = heads.shape[0], heads.shape[1] // width
        n_kv = n_heads // (groups + 2)
        n_query = groups * n_kv
        heads = heads.view(rows, n_heads, width)
        rotated = heads[:, : n_query + n_kv]
        if hasattr(attention, "q_norm"):
            queries = _rms_norm(rotated[:, :n_query], attention.q_norm)
            keys = _rms_norm(rotated[:, n_query:], attention.k_norm)
            rotated = torch.cat([queries, keys], dim=1)
        cos, sin = rope
        rotated = torch.addcmul(rotated * cos, rotated.roll(width // 2, dims=-1), sin)
        keys, values = cache.layers[attention.layer_idx].append(
            rotated[:, n_query:], heads[:, n_query + n_kv :]
        )
        # Queries that share keys stand where several query positions would.
        queries = rotated[:, :n_query].view(rows, n_kv, groups, width)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias, scale=attention.scaling
        )
        return attended.reshape(rows, n_query * width)


def counted_threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"


def _rms_norm(x: Tensor, norm: Any) -> Tensor:
    """As F.rms_norm, which on a CPU makes twice as many calls."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    mean_square = length.square_().mul_(1 / x.shape[-1])
    return (x * mean_square.add_(norm.variance_epsilon).rsqrt_()).mul_(norm.weight)


def supports_torch_step(model: Any, blocks: Sequence[nn.Module]) -> bool:
    """Whether `TorchDecoder` computes what this model does: plain float32 layers of a known class,
    in memory, with full attention."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    modules = [model.get_output_embeddings(), *(m for block in blocks for m in block.modules())]
    linears = [m for m in modules if getattr(m, "weight", None) is not None and m.weight.ndim == 2]
    return (
        all(type(block).__name__ in _LAYER_CLASSES for block in blocks)
        and config.hidden_act == "silu"
        and not getattr(config, "sliding_window", None)
        and all(kind == "full_attention" for kind in kinds)
        and all(
            type(m) is nn.Linear
            and m.weight.device.type == "cpu"
            and m.weight.dtype == torch.float32
            for m in linears
        )
        and not any(hasattr(module, "_hf_hook") for module in model.modules())
    )
