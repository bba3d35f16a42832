"""One decoding step of a Llama-shaped model on a CPU, without what its class costs per call.

With one token per row the arithmetic of a small model is done in a few milliseconds, and calling
it through a hundred modules takes longer than that. This computes the same with the same weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from saif.runtime.batch import Batch
from saif.runtime.cpu.packed import PackedLinear, PackedVocabulary
from saif.runtime.hooks import Edit

_SHAPED = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}

Projection = Callable[[Tensor], Tensor]
"""(rows, in) -> (rows, out), float32."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A decoder block, its modules taken apart."""

    block: Any
    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection


class LeanDecoder:
    """The steps after the prompt. It writes into the cache that the model itself read into.

    packed: decode with weights in 4 or 8 bits (see `saif.runtime.cpu.packed`).
    """

    compiled = False

    def __init__(self, model: Any, blocks: Sequence[Any], *, packed: bool) -> None:
        def project(*linears: nn.Linear) -> Projection:
            return PackedLinear.of(linears) if packed else _Side(linears)

        self.packed = packed
        inner = model.model
        self._embed, self._norm, self._rotary = inner.embed_tokens, inner.norm, inner.rotary_emb
        head = model.get_output_embeddings()
        self._head: Projection = PackedVocabulary(head.weight) if packed else head
        self._blocks = []
        for block in blocks:
            attention, mlp = block.self_attn, block.mlp
            self._blocks.append(
                _Block(
                    block,
                    qkv=project(attention.q_proj, attention.k_proj, attention.v_proj),
                    out=project(attention.o_proj),
                    gate_up=project(mlp.gate_proj, mlp.up_proj),
                    down=project(mlp.down_proj),
                )
            )

    @property
    def bytes(self) -> int:
        """What it holds beside the model."""
        parts = [self._head]
        for block in self._blocks:
            parts += [block.qkv, block.out, block.gate_up, block.down]
        return sum(
            part.bytes for part in parts if isinstance(part, PackedLinear | PackedVocabulary)
        )

    def step(self, batch: Batch, edits: Mapping[int, Edit]) -> Tensor:
        """Logits (rows, vocab) after every row's newest token, which is the only one unread."""
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
        for layer, parts in enumerate(self._blocks):
            block = parts.block
            normed = _rms_norm(resid, block.input_layernorm)
            heads = parts.qkv(normed)
            resid = resid + parts.out(self._attend(block, heads, cos, sin, bias, batch.cache))
            gate, up = parts.gate_up(_rms_norm(resid, block.post_attention_layernorm)).chunk(2, 1)
            resid = resid + parts.down(F.silu(gate).mul_(up))
            if layer in edits:
                resid = edits[layer](resid[:, None])[:, 0]
        return self._head(_rms_norm(resid, self._norm))

    def _attend(
        self, block: Any, heads: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None, cache: Any
    ) -> Tensor:
        """heads (rows, all heads · width), queries then keys then values -> (rows, queries)."""
        attention = block.self_attn
        width, groups = attention.head_dim, attention.num_key_value_groups
        rows, n_heads = heads.shape[0], heads.shape[1] // width
        n_kv = n_heads // (groups + 2)
        n_query = groups * n_kv
        heads = heads.view(rows, n_heads, width)
        turned = heads[:, : n_query + n_kv]
        if hasattr(attention, "q_norm"):
            turned = torch.cat(
                [
                    _rms_norm(turned[:, :n_query], attention.q_norm),
                    _rms_norm(turned[:, n_query:], attention.k_norm),
                ],
                dim=1,
            )
        turned = torch.addcmul(turned * cos, turned.roll(width // 2, dims=-1), sin)
        keys, values = cache.layers[attention.layer_idx].append(
            turned[:, n_query:], heads[:, n_query + n_kv :]
        )
        # Queries that share keys stand where several query positions would.
        queries = turned[:, :n_query].view(rows, n_kv, groups, width)
        found = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias, scale=attention.scaling
        )
        return found.reshape(rows, n_query * width)


class _Side:
    """Several linear layers that read the same input, their outputs side by side."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._linears = linears

    def __call__(self, x: Tensor) -> Tensor:
        if len(self._linears) == 1:
            return self._linears[0](x)
        return torch.cat([linear(x) for linear in self._linears], dim=1)


def _rms_norm(x: Tensor, norm: Any) -> Tensor:
    """What F.rms_norm gives, which on a CPU is put together of twice as many calls."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    mean_square = length.square_().mul_(1 / x.shape[-1])
    return (x * mean_square.add_(norm.variance_epsilon).rsqrt_()).mul_(norm.weight)


def can_be_lean(model: Any, blocks: Sequence[nn.Module]) -> bool:
    """Whether `LeanDecoder` computes what this model does: plain float32 layers of a known shape,
    in memory, with full attention."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or []
    linears = [m for m in (model.get_output_embeddings(), *_inside(blocks)) if _projects(m)]
    return (
        all(type(block).__name__ in _SHAPED for block in blocks)
        and config.hidden_act == "silu"
        and not getattr(config, "sliding_window", None)
        and all(kind == "full_attention" for kind in kinds)
        and all(type(linear) is nn.Linear and _is_plain(linear.weight) for linear in linears)
        and not any(hasattr(module, "_hf_hook") for module in model.modules())
    )


def _inside(blocks: Sequence[nn.Module]) -> list[nn.Module]:
    return [module for block in blocks for module in block.modules()]


def _projects(module: Any) -> bool:
    return getattr(module, "weight", None) is not None and module.weight.ndim == 2


def _is_plain(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
