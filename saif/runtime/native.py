"""The decoding step of `saif.runtime.lean` in compiled code, with weights in 4 or 8 bits.

Everything but the weights is float32, and weights out of a 4-bit or 8-bit GGUF file are kept
exactly, so for those it computes what the model does. A row gets the same bits in any company.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saif.runtime.hooks import Edit

_GROUP = 32  # weights that share a scale, as in a GGUF file
_TILE = 16  # outputs that lie side by side
_LANES = 16
_CANDIDATES = 64


class _Product(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int32) for name in ("n_out", "n_in", "bits")],
        *[(name, ctypes.c_void_p) for name in ("weight", "scale", "bias")],
    )


class _Block(ctypes.Structure):
    _fields_ = (
        *[(name, _Product) for name in ("qkv", "out", "gate_up", "down")],
        *[(name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm")],
        *[(name, ctypes.c_float) for name in ("epsilon", "scaling")],
    )


_SIZES = ("rows", "threads", "n_query", "n_kv", "width", "d", "most_columns")
_TENSORS = ("resid", "cos", "sin", "columns", "n_columns")
_CACHE = ("keys", "values", "room")
_SCRATCH = ("normed", "heads", "wide", "scores", "taken_in")


class _Step(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int32) for name in _SIZES],
        *[(name, ctypes.c_void_p) for name in (*_TENSORS, *_CACHE, *_SCRATCH)],
    )


class GroupedLinear:
    """A linear layer's weight in groups of 32 with a 16-bit scale: in 4 bits if it is exactly
    that, otherwise in 8, which is exact for a weight out of an 8-bit GGUF file.

    Called, it is the layer: (rows, in) -> (rows, out), float32.
    """

    def __init__(self, library: ctypes.CDLL, weight: Tensor, bias: Tensor | None = None) -> None:
        self._library = library
        n_out, n_in = weight.shape
        groups = weight.detach().float().reshape(n_out, n_in // _GROUP, _GROUP)
        four = _four_bits(groups)
        self.bits = 8 if four is None else 4
        self._weight, self._scale, self.exact = four or _eight_bits(groups)
        self._weight, self._scale = _in_tiles(self._weight, 4), _in_tiles(self._scale, 1)
        self._bias = None if bias is None else bias.detach().float().contiguous()
        self.product = _Product(
            n_out, n_in, self.bits, *map(_pointer, (self._weight, self._scale, self._bias))
        )

    @classmethod
    def of(cls, library: ctypes.CDLL, *linears: nn.Linear) -> "GroupedLinear":
        """Several that read the same input, as one."""
        biases = [linear.bias for linear in linears]
        bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
        return cls(library, torch.cat([linear.weight.detach() for linear in linears]), bias)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = x.new_empty(len(x), self.product.n_out)
        taken_in = _taken_in_room(self._library, x.numel())
        self._library.saif_multiply(
            ctypes.byref(self.product),
            *(ctypes.c_void_p(_pointer(tensor)) for tensor in (x, taken_in, out)),
            len(x),
            torch.get_num_threads(),
        )
        return out

    @property
    def bytes(self) -> int:
        return self._weight.nbytes + self._scale.nbytes


class NativeDecoder:
    """As `saif.runtime.lean.LeanDecoder`, in compiled code."""

    packed = compiled = True

    def __init__(self, library: ctypes.CDLL, model: Any, blocks: Sequence[Any]) -> None:
        self._library = library
        inner = model.model
        self._embed, self._norm, self._rotary = inner.embed_tokens, inner.norm, inner.rotary_emb
        self._embedding = model.get_output_embeddings().weight.detach()
        self._head = GroupedLinear(library, self._embedding)
        first = blocks[0].self_attn
        self._width: int = first.head_dim
        self._n_kv: int = first.k_proj.out_features // self._width
        self._n_query: int = first.q_proj.out_features // self._width
        self._inner: int = blocks[0].mlp.up_proj.out_features
        self._linears: list[GroupedLinear] = []
        self._norms: list[Tensor] = []
        self._blocks = (_Block * len(blocks))(*map(self._taken_apart, blocks))

    def _taken_apart(self, block: Any) -> _Block:
        attention, mlp = block.self_attn, block.mlp
        linears = [
            GroupedLinear.of(self._library, attention.q_proj, attention.k_proj, attention.v_proj),
            GroupedLinear.of(self._library, attention.o_proj),
            GroupedLinear.of(self._library, mlp.gate_proj, mlp.up_proj),
            GroupedLinear.of(self._library, mlp.down_proj),
        ]
        norms = [
            block.input_layernorm,
            block.post_attention_layernorm,
            getattr(attention, "q_norm", None),
            getattr(attention, "k_norm", None),
        ]
        weights = [None if norm is None else norm.weight.detach() for norm in norms]
        self._linears += linears
        self._norms += [weight for weight in weights if weight is not None]
        return _Block(
            *[linear.product for linear in linears],
            *map(_pointer, weights),
            norms[0].variance_epsilon,
            attention.scaling,
        )

    @property
    def bytes(self) -> int:
        """What it holds beside the model."""
        return sum(linear.bytes for linear in (self._head, *self._linears))

    def step(
        self,
        token_ids: Tensor,
        positions: Tensor,
        attention_mask: Tensor | None,
        cache: Any,
        edits: Mapping[int, Edit],
    ) -> Tensor:
        """See `LeanDecoder.step`."""
        resid = self._embed(token_ids)[:, 0].contiguous()
        rows, d = resid.shape
        buffers = [layer.open_column() for layer in cache.layers]
        columns, n_columns = _columns(attention_mask, rows, cache.get_seq_length())
        cos, sin = (turn.contiguous() for turn in self._rotary(resid, positions))
        n_heads = self._n_query + 2 * self._n_kv
        most = max(d, self._n_query * self._width, self._inner)  # that a product takes in
        scratch = [
            resid.new_empty(rows, size)
            for size in (
                d,
                n_heads * self._width,
                2 * self._inner,
                self._n_query * columns.shape[1],
            )
        ]
        scratch.append(_taken_in_room(self._library, rows * most))
        n = len(buffers)
        kept = (
            (ctypes.c_void_p * n)(*[keys.data_ptr() for keys, _ in buffers]),
            (ctypes.c_void_p * n)(*[values.data_ptr() for _, values in buffers]),
            (ctypes.c_int64 * n)(*[keys.shape[2] for keys, _ in buffers]),
        )
        step = _Step(
            *(rows, torch.get_num_threads(), self._n_query, self._n_kv, self._width, d),
            columns.shape[1],
            *map(_pointer, (resid, cos, sin, columns, n_columns)),
            *(ctypes.addressof(each) for each in kept),
            *map(_pointer, scratch),
        )
        done = 0
        for layer in sorted(edits):
            self._run(step, done, layer + 1)
            resid = edits[layer](resid[:, None])[:, 0].contiguous()
            step.resid, done = resid.data_ptr(), layer + 1
        self._run(step, done, n)
        return self._logits(self._norm(resid))

    def _run(self, step: _Step, first: int, last: int) -> None:
        self._library.saif_run_blocks(ctypes.byref(step), self._blocks, first, last)

    def _logits(self, x: Tensor) -> Tensor:
        logits = self._head(x)
        if self._head.exact:
            return logits
        # Eight bits find the likeliest tokens; what those get is computed in full.
        best = logits.topk(min(_CANDIDATES, logits.shape[1]), dim=1, sorted=False).indices
        return logits.scatter_(1, best, (self._embedding[best] * x[:, None]).sum(dim=-1))


def fits(blocks: Sequence[Any]) -> bool:
    """Whether the compiled step can take these blocks, of a shape that `can_be_lean` allows."""
    shapes = {
        tuple(tuple(m.weight.shape) for m in block.modules() if isinstance(m, nn.Linear))
        for block in blocks
    }
    return (
        len(shapes) == 1
        and not any(n_in % _GROUP for shape in shapes for _, n_in in shape)
        and not any(block.self_attn.head_dim % _LANES for block in blocks)
    )


def _columns(attention_mask: Tensor | None, rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Which columns of the cache hold a row's own positions, in order, and how many they are.
    The first has room for a whole number of lanes."""
    found = torch.zeros(rows, -(-width // _LANES) * _LANES, dtype=torch.int32)
    if attention_mask is None:
        found[:, :width] = torch.arange(width, dtype=torch.int32)
        return found, torch.full((rows,), width, dtype=torch.int32)
    hidden = attention_mask == 0
    found[:, :width] = hidden.to(torch.uint8).argsort(dim=1, stable=True)
    return found, (width - hidden.sum(dim=1)).to(torch.int32)


def _four_bits(groups: Tensor) -> tuple[Tensor, Tensor, bool] | None:
    """(weights (out, groups, 16), scales (out, groups, 2), True) of groups (out, groups, 32) that
    hold sixteen evenly spaced values at most, exactly; None for any other."""
    if len(groups) > 16 and _four_bits(groups[:16]) is None:  # cheaply said of most
        return None
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    scale = torch.stack([(high - low) / 15, low], dim=-1).half()
    step, zero = scale.float().unsqueeze(2).unbind(dim=-1)
    steps = ((groups - zero) / step.clamp_min(torch.finfo(step.dtype).tiny)).round_().clamp_(0, 15)
    if not torch.equal(torch.addcmul(zero, steps, step), groups):
        return None
    first, second = steps.to(torch.uint8).chunk(2, dim=-1)
    return first | second << 4, scale, True


def _eight_bits(groups: Tensor) -> tuple[Tensor, Tensor, bool]:
    """(weights (out, groups, 32), scales (out, groups, 1), whether nothing is lost)."""
    scale = (groups.abs().amax(dim=-1, keepdim=True) / 127).half()
    step = scale.float().clamp_min(torch.finfo(torch.float16).tiny)
    steps = (groups / step).round_().clamp_(-127, 127)
    exact = torch.equal(steps * scale.float(), groups)
    return (steps + 128).to(torch.uint8), scale, exact


def _in_tiles(parts: Tensor, n: int) -> Tensor:
    """What each output has of each group, (out, groups, parts), as (tiles, groups, parts / n, 16,
    n): a tile's outputs side by side, the last ones filled up with zeros."""
    n_out, groups, size = parts.shape
    filled = nn.functional.pad(parts, (0, 0, 0, 0, 0, -n_out % _TILE))
    tiles = filled.reshape(-1, _TILE, groups, size // n, n)
    return tiles.permute(0, 2, 3, 1, 4).contiguous()


def _taken_in_room(library: ctypes.CDLL, n: int) -> Tensor:
    """Room for `n` numbers as a product takes them in."""
    return torch.empty(n // _GROUP * library.saif_reading_bytes(), dtype=torch.uint8)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
