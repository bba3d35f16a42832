"""The decoding step of `saif.runtime.cpu.torch_step` in compiled code, with weights in 4 or 8 bits.

Everything but the weights is float32, and weights out of a 4-bit or 8-bit GGUF file are kept
exactly, so for those it computes what the model does. A row gets the same bits in any company.
"""

import ctypes
import operator
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saif.runtime.batch import Batch
from saif.runtime.cpu.weights import GROUP, GroupedLinear, Product, pointer, taken_in_room
from saif.runtime.steering_hook import SteeringHook

_LANES = 16
_CANDIDATES = 64
_TURNS = 256  # positions whose turns are made at once


class _Block(ctypes.Structure):
    _fields_ = (
        *[(name, Product) for name in ("qkv", "out", "gate_up", "down")],
        *[(name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm")],
        *[(name, ctypes.c_float) for name in ("epsilon", "scaling")],
    )


class _Decoder(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int32) for name in ("n_blocks", "n_query", "n_kv", "width", "d")],
        ("epsilon", ctypes.c_float),
        *[(name, ctypes.c_void_p) for name in ("blocks", "embedding", "norm", "cos", "sin")],
    )


_ROWS = ("tokens", "positions", "columns", "n_columns")
_CACHE = ("keys", "values", "room")
_PUSH = ("added", "changed")
_SCRATCH = ("resid", "normed", "heads", "wide", "scores", "taken_in")


class _Step(ctypes.Structure):
    _fields_ = (
        *[(name, ctypes.c_int32) for name in ("rows", "threads", "most_columns")],
        *[(name, ctypes.c_void_p) for name in (*_ROWS, *_CACHE, *_PUSH, *_SCRATCH)],
    )


class NativeDecoder:
    """As `saif.runtime.cpu.torch_step.LeanDecoder`, in compiled code.

    What a step needs beside its tokens lies ready from the step before: looking after thirty
    layers' tensors anew takes as long as three of those layers.
    """

    packed = compiled = True

    def __init__(self, library: ctypes.CDLL, model: Any, blocks: Sequence[Any]) -> None:
        self._library = library
        inner = model.model
        self._rotary = inner.rotary_emb
        self._turns = torch.empty(2, 0, blocks[0].self_attn.head_dim)  # cos, sin
        self._embedding = inner.embed_tokens.weight.detach().float().contiguous()
        self._unembedding = model.get_output_embeddings().weight.detach()
        self._head = GroupedLinear(library, self._unembedding)
        self._linears: list[GroupedLinear] = []
        self._norms: list[Tensor] = []
        self._blocks = (_Block * len(blocks))(*map(self._taken_apart, blocks))
        width = blocks[0].self_attn.head_dim
        self._norms.append(inner.norm.weight.detach())
        self._decoder = _Decoder(
            len(blocks),
            blocks[0].self_attn.q_proj.out_features // width,
            blocks[0].self_attn.k_proj.out_features // width,
            width,
            self._embedding.shape[1],
            inner.norm.variance_epsilon,
            ctypes.addressof(self._blocks),
            *map(pointer, (self._embedding, self._norms[-1])),
        )
        self._inner: int = blocks[0].mlp.up_proj.out_features
        self._desks: WeakKeyDictionary[Any, _Desk] = WeakKeyDictionary()

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
            *map(pointer, weights),
            norms[0].variance_epsilon,
            attention.scaling,
        )

    @property
    def bytes(self) -> int:
        """What it holds beside the model."""
        return sum(linear.bytes for linear in (self._head, *self._linears))

    def step(self, batch: Batch, edits: Mapping[int, SteeringHook]) -> Tensor:
        """See `LeanDecoder.step`. A push that only adds is made in compiled code as well."""
        lengths = [len(row.token_ids) for row in batch.rows]
        tokens = [row.token_ids[-1] for row in batch.rows]
        if not 0 <= min(tokens) <= max(tokens) < len(self._embedding):
            raise IndexError(f"There are no such tokens: {tokens}.")
        self._turn_up_to(max(lengths))
        desk = self._desk_of(batch)
        desk.step.threads = torch.get_num_threads()
        desk.tokens[:] = tokens  # type: ignore[assignment]
        desk.positions[:] = [length - 1 for length in lengths]  # type: ignore[assignment]
        added = {layer: push.added() for layer, push in edits.items()}
        desk.add(added)
        done = 0
        for layer, push in sorted(edits.items()):
            if added[layer] is None:
                self._run(desk, done, layer + 1)
                desk.resid.copy_(push(desk.resid[:, None])[:, 0])
                done = layer + 1
        self._run(desk, done, self._decoder.n_blocks)
        for layer, push in edits.items():
            if added[layer] is not None:
                push.note(desk.changed(layer))
        return self._logits(desk.normed)

    def _run(self, desk: "_Desk", first: int, last: int) -> None:
        of, step = ctypes.byref(self._decoder), ctypes.byref(desk.step)
        self._library.saif_run_blocks(of, step, desk.n_filled - 1, first, last)

    def _turn_up_to(self, n: int) -> None:
        """Have the turns of `n` positions. They are made in pieces of one size, so that a position
        is turned alike however far a reply goes."""
        while self._turns.shape[1] < n:
            start = self._turns.shape[1]
            positions = torch.arange(start, start + _TURNS)[None]
            piece = torch.cat(self._rotary(self._embedding[:1, None], positions))
            self._turns = torch.cat([self._turns, piece], dim=1)
            cos, sin = self._turns
            self._decoder.cos, self._decoder.sin = cos.data_ptr(), sin.data_ptr()

    def _desk_of(self, batch: Batch) -> "_Desk":
        """The batch's, with one more column of its cache open."""
        buffers = [layer.open_column() for layer in batch.cache.layers]
        desk = self._desks.get(batch.cache)
        if desk is None or not desk.is_for(buffers, batch.width):
            desk = _Desk(self._library, self._decoder, self._inner, batch, buffers)
            self._desks[batch.cache] = desk
        desk.n_filled = batch.width
        return desk

    def _logits(self, x: Tensor) -> Tensor:
        logits = self._head(x)
        if self._head.exact:
            return logits
        # Eight bits find the likeliest tokens; what those get is computed in full.
        best = logits.topk(min(_CANDIDATES, logits.shape[1]), dim=1, sorted=False).indices
        return logits.scatter_(1, best, (self._unembedding[best] * x[:, None]).sum(dim=-1))


class _Desk:
    """What the steps of a batch work on, as long as its cache lies where it lies.

    inner: how many gates a block has. buffers: keys and values of each layer, see
    `PreallocatedLayer.open_column`.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        of: _Decoder,
        inner: int,
        batch: Batch,
        buffers: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        rows, n = len(batch.rows), len(buffers)
        self._buffers = buffers
        self.n_filled = batch.width
        room = max(keys.shape[2] for keys, _ in buffers)
        columns, n_columns = _columns(batch.attention_mask[:, :-1], room)
        self.tokens, self.positions = (ctypes.c_int32 * rows)(), (ctypes.c_int32 * rows)()
        self._added = (ctypes.c_void_p * (n * rows))()
        self._changed = (ctypes.c_int32 * (n * rows))()
        addresses = (
            (ctypes.c_void_p * n)(*[keys.data_ptr() for keys, _ in buffers]),
            (ctypes.c_void_p * n)(*[values.data_ptr() for _, values in buffers]),
            (ctypes.c_int64 * n)(*[keys.shape[2] for keys, _ in buffers]),
        )
        self.resid, self.normed = torch.empty(2, rows, of.d)
        scratch = (
            *(self.resid, self.normed),
            torch.empty(rows, (of.n_query + 2 * of.n_kv) * of.width),
            torch.empty(rows, 2 * inner),
            torch.empty(rows, of.n_query * columns.shape[1]),
            taken_in_room(library, rows * max(of.d, of.n_query * of.width, inner)),
        )
        self._kept = (columns, n_columns, addresses, scratch)
        self.step = _Step(
            *(rows, 1, columns.shape[1]),
            *(ctypes.addressof(each) for each in (self.tokens, self.positions)),
            *map(pointer, (columns, n_columns)),
            *(ctypes.addressof(each) for each in addresses),
            *(ctypes.addressof(each) for each in (self._added, self._changed)),
            *map(pointer, scratch),
        )

    def is_for(self, buffers: Sequence[tuple[Tensor, Tensor]], width: int) -> bool:
        """Whether a cache of this width, its last column still to be written, is the one that the
        last step left."""
        return width == self.n_filled + 1 and all(map(operator.is_, buffers, self._buffers))

    def add(self, added: Mapping[int, Mapping[int, Tensor] | None]) -> None:
        """Have this added in the next step, and no more: layer -> row -> (d,), which its owner
        keeps until then."""
        for each in (self._added, self._changed):
            ctypes.memset(each, 0, ctypes.sizeof(each))
        for layer, rows in added.items():
            for row, direction in (rows or {}).items():
                self._added[layer * len(self.tokens) + row] = direction.data_ptr()

    def changed(self, layer: int) -> list[int]:
        """(rows,): 1 where what was added changed the residual, else 0."""
        rows = len(self.tokens)
        return self._changed[layer * rows : (layer + 1) * rows]


def fits(model: Any, blocks: Sequence[Any]) -> bool:
    """Whether the compiled step can take this model, of a shape that `can_be_lean` allows."""
    shapes = {
        tuple(tuple(m.weight.shape) for m in block.modules() if isinstance(m, nn.Linear))
        for block in blocks
    }
    return (
        len(shapes) == 1
        and not any(n_in % GROUP for shape in shapes for _, n_in in shape)
        and not any(block.self_attn.head_dim % _LANES for block in blocks)
        # These turn a position differently the longer a text is.
        and model.model.rotary_emb.rope_type not in ("dynamic", "longrope")
    )


def _columns(attention_mask: Tensor, room: int) -> tuple[Tensor, Tensor]:
    """Which columns of the cache hold a row's own positions, in order, and how many they are.
    The first has room for that many columns, made up to a whole number of lanes."""
    found = torch.zeros(len(attention_mask), -(-room // _LANES) * _LANES, dtype=torch.int32)
    hidden = attention_mask == 0
    found[:, : hidden.shape[1]] = hidden.to(torch.uint8).argsort(dim=1, stable=True)
    return found, (~hidden).sum(dim=1).to(torch.int32)
