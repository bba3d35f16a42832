"""Linear layers with weights in groups of 4 or 8 bits, multiplied in compiled code."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

GROUP = 32  # weights that share a scale, as in a GGUF file


class LinearStruct(ctypes.Structure):
    """`linear` in gemm.h."""

    _fields_ = (
        *[(name, ctypes.c_int32) for name in ("n_out", "n_in", "bits")],
        *[(name, ctypes.c_void_p) for name in ("weight", "scale", "bias")],
    )


class QuantizedLinear:
    """A linear layer's weight in groups of 32 with a 16-bit scale: in 4 bits if it is exactly
    that, otherwise in 8, which is exact for a weight out of an 8-bit GGUF file.

    Called, it is the layer: (rows, in) -> (rows, out), float32.
    """

    exact: bool
    """Whether the rounded weights are the layer's own."""

    def __init__(self, library: ctypes.CDLL, weight: Tensor, bias: Tensor | None = None) -> None:
        self._library = library
        n_out, n_in = weight.shape
        groups = weight.detach().float().reshape(n_out, n_in // GROUP, GROUP)
        four = _four_bits(groups)
        self.bits = 8 if four is None else 4
        self._weight, self._scale, self.exact = four or _eight_bits(groups)
        tile = library.saif_tile()
        self._weight = _tiled(self._weight, tile, 4)
        self._scale = _tiled(self._scale, tile, 1)
        self._bias = None if bias is None else bias.detach().float().contiguous()
        self.struct = LinearStruct(
            n_out, n_in, self.bits, *map(pointer, (self._weight, self._scale, self._bias))
        )

    @classmethod
    def concatenated(cls, library: ctypes.CDLL, *linears: nn.Linear) -> "QuantizedLinear":
        """Several layers that read the same input, as one."""
        biases = [linear.bias for linear in linears]
        bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
        return cls(library, torch.cat([linear.weight.detach() for linear in linears]), bias)

    def __call__(self, x: Tensor, threads: int = 1) -> Tensor:
        x = x.contiguous()
        out = x.new_empty(len(x), self.struct.n_out)
        inputs = input_buffer(self._library, x.numel())
        self._library.saif_linear(
            ctypes.byref(self.struct),
            *(ctypes.c_void_p(pointer(tensor)) for tensor in (x, inputs, out)),
            len(x),
            threads,
        )
        return out

    @property
    def bytes(self) -> int:
        return self._weight.nbytes + self._scale.nbytes


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


def _tiled(parts: Tensor, tile: int, n: int) -> Tensor:
    """What each output has of each group, (out, groups, parts), as (tiles, groups, parts / n, tile,
    n): a tile's outputs side by side, the last ones filled up with zeros."""
    n_out, groups, size = parts.shape
    filled = nn.functional.pad(parts, (0, 0, 0, 0, 0, -n_out % tile))
    tiles = filled.reshape(-1, tile, groups, size // n, n)
    return tiles.permute(0, 2, 3, 1, 4).contiguous()


def input_buffer(library: ctypes.CDLL, n: int) -> Tensor:
    """Scratch for `n` numbers as a product's quantized input."""
    return torch.empty(n // GROUP * library.saif_input_group_bytes(), dtype=torch.uint8)


def pointer(owner: "Tensor | ctypes.Array[Any] | None") -> int | None:
    """Where its numbers lie in memory."""
    if owner is None:
        return None
    return owner.data_ptr() if isinstance(owner, Tensor) else ctypes.addressof(owner)
