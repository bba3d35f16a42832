"""The C step: one decoding step in compiled code, with weights in 4 or 8 bits.

Everything but the weights is float32, and weights out of a 4-bit or 8-bit GGUF file are kept
exactly, so for those it computes what the model does. A row gets the same bits in any company.
"""

import ctypes
import operator
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saif.runtime.batch import Batch
from saif.runtime.cpu.build import kernel
from saif.runtime.cpu.thread_policy import ThreadPolicy
from saif.runtime.cpu.torch_step import counted_threads
from saif.runtime.cpu.weights import GROUP, LinearStruct, QuantizedLinear, input_buffer, pointer
from saif.runtime.steering_hook import SteeringHook

_LANES = 16  # of the widest vectors that C uses
_CANDIDATES = 64
_ROPE_CHUNK = 256  # positions whose angles are computed at once


class _BlockStruct(ctypes.Structure):
    """`block` in decode.c."""

    _fields_ = (
        *[(name, LinearStruct) for name in ("qkv", "out", "gate_up", "down")],
        *[(name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm")],
        *[(name, ctypes.c_float) for name in ("epsilon", "scaling")],
    )


class _DecoderStruct(ctypes.Structure):
    """`decoder` in decode.c."""

    _fields_ = (
        *[(name, ctypes.c_int32) for name in ("n_blocks", "n_query", "n_kv")],
        *[(name, ctypes.c_int32) for name in ("head_dim", "d_model")],
        ("epsilon", ctypes.c_float),
        *[(name, ctypes.c_void_p) for name in ("blocks", "embedding", "norm")],
        *[(name, ctypes.c_void_p) for name in ("rope_cos", "rope_sin")],
    )


class _BuffersStruct(ctypes.Structure):
    """`buffers` in decode.c."""

    _fields_ = (
        *[(name, ctypes.c_int32) for name in ("rows", "threads", "max_columns")],
        *[(name, ctypes.c_void_p) for name in ("tokens", "positions", "columns", "n_columns")],
        *[(name, ctypes.c_void_p) for name in ("keys", "values", "capacity")],
        *[(name, ctypes.c_void_p) for name in ("directions", "changed")],
        *[(name, ctypes.c_void_p) for name in ("resid", "normed", "heads", "gates", "scores")],
        ("inputs", ctypes.c_void_p),
    )


class CDecoder:
    """A `Decoder` in compiled code.

    The buffers of a step are kept for the next one of the same batch: passing thirty layers'
    tensors anew takes as long as computing three of those layers.
    """

    def __init__(self, library: ctypes.CDLL, model: Any, blocks: Sequence[Any]) -> None:
        self._library = library
        inner = model.model
        self._rotary = inner.rotary_emb
        self._rope = torch.empty(2, 0, blocks[0].self_attn.head_dim)  # cos, sin
        self._embedding = inner.embed_tokens.weight.detach().float().contiguous()
        self._unembedding = model.get_output_embeddings().weight.detach()
        self._head = QuantizedLinear(library, self._unembedding)
        self._linears: list[QuantizedLinear] = []
        self._norms: list[Tensor] = []
        self._blocks = (_BlockStruct * len(blocks))(*map(self._block_struct, blocks))
        head_dim = blocks[0].self_attn.head_dim
        self._norms.append(inner.norm.weight.detach())
        self._decoder = _DecoderStruct(
            len(blocks),
            blocks[0].self_attn.q_proj.out_features // head_dim,
            blocks[0].self_attn.k_proj.out_features // head_dim,
            head_dim,
            self._embedding.shape[1],
            inner.norm.variance_epsilon,
            *map(pointer, (self._blocks, self._embedding, self._norms[-1])),
        )
        self._n_gates: int = blocks[0].mlp.up_proj.out_features
        self._buffers: WeakKeyDictionary[Any, _StepBuffers] = WeakKeyDictionary()
        self._policy = ThreadPolicy()
        self._threads = 0  # of the last step, once there was one

    def _block_struct(self, block: Any) -> _BlockStruct:
        attention, mlp = block.self_attn, block.mlp
        concatenated = partial(QuantizedLinear.concatenated, self._library)
        linears = [
            concatenated(attention.q_proj, attention.k_proj, attention.v_proj),
            concatenated(attention.o_proj),
            concatenated(mlp.gate_proj, mlp.up_proj),
            concatenated(mlp.down_proj),
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
        return _BlockStruct(
            *[linear.struct for linear in linears],
            *map(pointer, weights),
            norms[0].variance_epsilon,
            attention.scaling,
        )

    @property
    def bytes(self) -> int:
        return sum(linear.bytes for linear in (self._head, *self._linears))

    def describe(self) -> str:
        bits = sorted({linear.bits for linear in self._linears})
        exact = all(linear.exact for linear in self._linears)
        weights = f"{' and '.join(map(str, bits))}-bit weights{'' if exact else ' (rounded)'}"
        threads = counted_threads(self._threads or torch.get_num_threads())
        return f"compiled for {kernel(self._library)}, {weights}, {threads}"

    def step(self, batch: Batch, edits: Mapping[int, SteeringHook]) -> Tensor:
        """See `Decoder.step`. An edit that only adds a direction is made in compiled code.

        Raises IndexError for a token that the embedding lacks.
        """
        lengths = [len(row.token_ids) for row in batch.rows]
        tokens = [row.token_ids[-1] for row in batch.rows]
        if not 0 <= min(tokens) <= max(tokens) < len(self._embedding):
            raise IndexError(f"There are no such tokens: {tokens}.")
        self._extend_rope(max(lengths))
        buffers = self._buffers_of(batch)
        shape = (len(tokens), batch.width.bit_length())
        self._threads = buffers.struct.threads = self._policy.choose(shape, torch.get_num_threads())
        buffers.tokens[:] = tokens  # type: ignore[assignment]
        buffers.positions[:] = [length - 1 for length in lengths]  # type: ignore[assignment]
        added = {layer: edit.added() for layer, edit in edits.items()}
        buffers.set_directions(added)
        seconds = 0.0
        done = 0
        for layer, edit in sorted(edits.items()):
            if added[layer] is None:
                seconds += self._run_blocks(buffers, done, layer + 1)
                buffers.resid.copy_(edit(buffers.resid[:, None])[:, 0])
                done = layer + 1
        seconds += self._run_blocks(buffers, done, self._decoder.n_blocks)
        for layer, edit in edits.items():
            if added[layer] is not None:
                edit.note(buffers.changed(layer))
        started = time.perf_counter()
        logits = self._logits(buffers.normed)
        self._policy.record(self._threads, seconds + time.perf_counter() - started)
        return logits

    def _run_blocks(self, buffers: "_StepBuffers", first: int, last: int) -> float:
        """Run blocks `first` up to but not including `last`; seconds that this took."""
        started = time.perf_counter()
        model, struct = ctypes.byref(self._decoder), ctypes.byref(buffers.struct)
        self._library.saif_run_blocks(model, struct, buffers.n_columns - 1, first, last)
        return time.perf_counter() - started

    def _extend_rope(self, n: int) -> None:
        """Have the cosines and sines of `n` positions. They are computed in chunks of one size, so
        that a position's have the same bits however far a reply goes."""
        while self._rope.shape[1] < n:
            start = self._rope.shape[1]
            positions = torch.arange(start, start + _ROPE_CHUNK)[None]
            chunk = torch.cat(self._rotary(self._embedding[:1, None], positions))
            self._rope = torch.cat([self._rope, chunk], dim=1)
            cos, sin = self._rope
            self._decoder.rope_cos, self._decoder.rope_sin = cos.data_ptr(), sin.data_ptr()

    def _buffers_of(self, batch: Batch) -> "_StepBuffers":
        """The batch's, with one more column of its cache open."""
        cache = [layer.open_column() for layer in batch.cache.layers]
        buffers = self._buffers.get(batch.cache)
        if buffers is None or not buffers.continue_with(cache, batch.width):
            buffers = _StepBuffers(self._library, self._decoder, self._n_gates, batch, cache)
            self._buffers[batch.cache] = buffers
        buffers.n_columns = batch.width
        return buffers

    def _logits(self, x: Tensor) -> Tensor:
        logits = self._head(x, self._threads)
        if self._head.exact:
            return logits
        # Eight bits find the likeliest tokens; the logits of those are computed in full.
        best = logits.topk(min(_CANDIDATES, logits.shape[1]), dim=1, sorted=False).indices
        return logits.scatter_(1, best, (self._unembedding[best] * x[:, None]).sum(dim=-1))


class _StepBuffers:
    """What the steps of a batch work on, for as long as its cache stays where it is in memory.

    n_gates: width of a block's MLP. cache: all the memory for keys and values of each layer, see
    `PreallocatedLayer.open_column`.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        model: _DecoderStruct,
        n_gates: int,
        batch: Batch,
        cache: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        rows, n = len(batch.rows), len(cache)
        self._cache = cache
        self.n_columns = batch.width
        capacity = max(keys.shape[2] for keys, _ in cache)
        columns, n_columns = _columns(batch.attention_mask[:, :-1], capacity)
        self.tokens, self.positions = (ctypes.c_int32 * rows)(), (ctypes.c_int32 * rows)()
        self._directions = (ctypes.c_void_p * (n * rows))()
        self._changed = (ctypes.c_int32 * (n * rows))()
        addresses = (
            (ctypes.c_void_p * n)(*[keys.data_ptr() for keys, _ in cache]),
            (ctypes.c_void_p * n)(*[values.data_ptr() for _, values in cache]),
            (ctypes.c_int64 * n)(*[keys.shape[2] for keys, _ in cache]),
        )
        self.resid, self.normed = torch.empty(2, rows, model.d_model)
        n_heads, attended = model.n_query + 2 * model.n_kv, model.n_query * model.head_dim
        scratch = (
            *(self.resid, self.normed),
            torch.empty(rows, n_heads * model.head_dim),
            torch.empty(rows, 2 * n_gates),
            torch.empty(rows, model.n_query * columns.shape[1]),
            input_buffer(library, rows * max(model.d_model, attended, n_gates)),
        )
        rows_of = (self.tokens, self.positions, columns, n_columns)
        # The struct only points to them.
        self._owned = (*rows_of, *addresses, self._directions, self._changed, *scratch)
        self.struct = _BuffersStruct(rows, 1, columns.shape[1], *map(pointer, self._owned))

    def continue_with(self, cache: Sequence[tuple[Tensor, Tensor]], width: int) -> bool:
        """Whether this cache, `width` columns of which the last is still to be written, is the one
        that the last step left."""
        return width == self.n_columns + 1 and all(map(operator.is_, cache, self._cache))

    def set_directions(self, added: Mapping[int, Mapping[int, Tensor] | None]) -> None:
        """Add these in the next step, and no others: layer -> row -> (d_model,), whose owner keeps
        it in memory until then."""
        for each in (self._directions, self._changed):
            ctypes.memset(each, 0, ctypes.sizeof(each))
        for layer, rows in added.items():
            for row, direction in (rows or {}).items():
                self._directions[layer * len(self.tokens) + row] = direction.data_ptr()

    def changed(self, layer: int) -> list[int]:
        """(rows,): 1 where a direction changed the residual after this layer, else 0."""
        rows = len(self.tokens)
        return self._changed[layer * rows : (layer + 1) * rows]


def supports_c_step(model: Any, blocks: Sequence[Any]) -> bool:
    """Whether `CDecoder` can take this model, which `supports_torch_step` allows."""
    shapes = {
        tuple(tuple(m.weight.shape) for m in block.modules() if isinstance(m, nn.Linear))
        for block in blocks
    }
    return (
        len(shapes) == 1
        and not any(n_in % GROUP for shape in shapes for _, n_in in shape)
        and not any(block.self_attn.head_dim % _LANES for block in blocks)
        # The angles of a position depend on the length of the text there.
        and model.model.rotary_emb.rope_type not in ("dynamic", "longrope")
    )


def _columns(attention_mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Which columns of the cache hold a row's own positions, in order, and how many they are.
    The first has room for `capacity` columns, rounded up to a whole number of vectors."""
    columns = torch.zeros(len(attention_mask), -(-capacity // _LANES) * _LANES, dtype=torch.int32)
    padding = attention_mask == 0
    columns[:, : padding.shape[1]] = padding.to(torch.uint8).argsort(dim=1, stable=True)
    return columns, (~padding).sum(dim=1).to(torch.int32)
