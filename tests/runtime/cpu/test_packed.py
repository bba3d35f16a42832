"""Weights in fewer bits: what is lost, and that a row doesn't depend on its company."""

import pytest
import torch
from torch import Tensor, nn

from saif.runtime.cpu.packed import PackedLinear, PackedVocabulary, _on_a_grid


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on_a_grid(n_out: int, n_in: int) -> Tensor:
    """As it comes out of a 4-bit GGUF file: in each group of 32, a lowest value plus 0 to 15
    steps. Some groups use few of the steps, and one is constant."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 16, (n_out, n_in // 32, 32), generator=generator).float()
    steps[0, 0] %= 5
    steps[1, 0] = 3
    size = 0.01 + torch.rand(n_out, n_in // 32, 1, generator=generator) / 50
    return (steps * size - 8 * size).reshape(n_out, n_in)


WEIGHTS = {4: on_a_grid(64, 96), 8: random(64, 96) / 10}
ROWS = random(96, 96, seed=1)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_product_is_the_product_up_to_rounding(bits: int) -> None:
    packed = PackedLinear(WEIGHTS[bits], bias := random(64, seed=2))
    assert packed.bits == bits
    expected = ROWS @ WEIGHTS[bits].T + bias
    error = (packed(ROWS) - expected).norm() / expected.norm()
    assert error < {4: 0.004, 8: 0.012}[bits]  # a bfloat16 has 8 bits


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_is_the_same_bit_for_bit_in_any_company(bits: int) -> None:
    packed = PackedLinear(WEIGHTS[bits])
    whole = packed(ROWS)
    for n in (1, 2, 3, 4, 5, 7, 8, 16, 32, 64):
        assert torch.equal(packed(ROWS[:n]), whole[:n])
        assert torch.equal(packed(ROWS[20 : 20 + n]), whole[20 : 20 + n])


def test_four_bits_are_taken_only_where_nothing_is_lost() -> None:
    steps, low, step = _on_a_grid(WEIGHTS[4])
    rebuilt = low[..., None] + step[..., None] * steps.reshape(64, 3, 32)
    torch.testing.assert_close(rebuilt.reshape(64, 96), WEIGHTS[4], atol=1e-5, rtol=1e-4)
    off = WEIGHTS[4].clone()
    off[50, 40] += 0.004  # a fifth of a step, in a row past the sample
    assert _on_a_grid(off) is None
    assert _on_a_grid(WEIGHTS[8]) is None
    assert _on_a_grid(WEIGHTS[4][:, :40]) is None


def test_several_layers_are_packed_side_by_side() -> None:
    linears = [nn.Linear(96, n) for n in (32, 16)]
    together = PackedLinear.of(linears)(ROWS)
    apart = torch.cat([PackedLinear.of([linear])(ROWS) for linear in linears], dim=1)
    assert torch.equal(together, apart)


def test_the_likeliest_tokens_have_exact_logits() -> None:
    weight = random(1000, 96, seed=3)
    logits, exact = PackedVocabulary(weight)(ROWS), ROWS @ weight.T
    torch.testing.assert_close(logits.max(dim=1).values, exact.max(dim=1).values)
    assert torch.equal(logits.argmax(dim=1), exact.argmax(dim=1))
    best = exact.topk(20, dim=1).indices
    torch.testing.assert_close(logits.gather(1, best), exact.gather(1, best))
    assert torch.equal(PackedVocabulary(weight)(ROWS[3:5]), logits[3:5])
