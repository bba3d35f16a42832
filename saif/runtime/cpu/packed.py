"""Weights in four or eight bits for decoding on a CPU, where reading them is what takes the time.

Both kernels give a row the same numbers whoever rides along: each row adds up by itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_GROUP = 32  # weights that share a scale, as in a GGUF file of 4-bit blocks
_LEVELS = 15
_CANDIDATES = 64


class PackedLinear:
    """`x @ weight.T` with the weight in 4 bits if it loses nothing by that, otherwise in 8.

    x and the result are float32 (rows, ...); in between both are rounded to bfloat16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._bias = bias
        four = _on_a_grid(weight)
        self.bits = 8 if four is None else 4
        if four is None:
            scale = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            self._scale = scale.bfloat16()
            in_steps = (weight / self._scale.float()[:, None]).round().clamp(-127, 127)
            self._weight = in_steps.to(torch.int8)
        else:
            steps, low, step = four
            self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, 1)
            # The kernel counts from the middle: step 8 is zero.
            scale_and_zero = torch.stack([step, low + 8 * step], dim=-1)
            self._scale = scale_and_zero.transpose(0, 1).contiguous().bfloat16()

    @classmethod
    def of(cls, linears: Sequence[torch.nn.Linear]) -> "PackedLinear":
        """Several that read the same input, as one."""
        biases = [linear.bias for linear in linears]
        bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
        return cls(torch.cat([linear.weight.detach() for linear in linears]), bias)

    def __call__(self, x: Tensor) -> Tensor:
        rounded = x.bfloat16()
        if self.bits == 8:
            out = torch._weight_int8pack_mm(rounded, self._weight, self._scale)
        else:
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rounded, self._weight, _GROUP, self._scale
            )
        wide = out.float()
        return wide if self._bias is None else wide + self._bias

    @property
    def bytes(self) -> int:
        return self._weight.nbytes + self._scale.nbytes


class PackedVocabulary:
    """The vocabulary projection in 8 bits, exact for the likeliest tokens.

    The 8-bit kernel rounds logits to bfloat16, which makes ties of near ones. So the candidates
    that it finds are computed once more with the full weights.
    """

    def __init__(self, weight: Tensor) -> None:
        self._full = weight.detach()
        self._packed = PackedLinear(self._full)

    def __call__(self, x: Tensor) -> Tensor:
        logits = self._packed(x)
        best = logits.topk(min(_CANDIDATES, logits.shape[1]), dim=1, sorted=False).indices
        exact = (self._full[best] * x[:, None, :]).sum(dim=-1)
        return logits.scatter_(1, best, exact)

    @property
    def bytes(self) -> int:
        return self._packed.bytes


def _on_a_grid(weight: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """(steps 0–15 as (out, in), lowest value and step size as (out, groups)) of a weight whose
    groups each hold at most sixteen evenly spaced values; None for any other.

    A 4-bit GGUF file makes such weights. A group need not use all sixteen values, so its step is
    the widest that explains it.
    """
    n_out, n_in = weight.shape
    if n_in % _GROUP or n_out % 16:
        return None
    if n_out > 16 and _on_a_grid(weight[:16]) is None:  # cheaply said of most
        return None
    groups = weight.float().reshape(n_out, n_in // _GROUP, _GROUP)
    low, high = groups.amin(dim=-1), groups.amax(dim=-1)
    step = ((high - low) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    left = _misfit(groups, low, step)
    for levels in range(_LEVELS - 1, 0, -1):
        if not bool(left.any()):
            break
        step[left] = ((high - low)[left] / levels).clamp_min(torch.finfo(torch.float32).tiny)
        left[left.clone()] = _misfit(groups[left], low[left], step[left])
    if bool(left.any()):
        return None
    steps = ((groups - low[..., None]) / step[..., None]).round()
    return steps.to(torch.int32).reshape(n_out, n_in), low, step


def _misfit(groups: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """Which groups hold a value that is off the grid by more than a fiftieth of a step."""
    steps = (groups - low[..., None]) / step[..., None]
    return ((steps - steps.round()).abs() > 0.02).any(dim=-1)
