"""The C step computes the same on every processor that the compiler can be restricted to, and a
row's bits depend neither on the rows beside it nor on the number of threads."""

import ctypes
from pathlib import Path

import pytest
import torch
from step_models import PROMPTS, compile_with, compiled, logits_of, on_a_grid, small, steering
from torch import Tensor, nn

from saif.errors import ModelError
from saif.runtime.batch import Batch, Row
from saif.runtime.cpu.build import kernel
from saif.runtime.cpu.weights import QuantizedLinear

RESTRICTIONS = {
    "native": "",
    "no products of bytes": "-mno-avx512vnni",
    "no AVX-512BW": "-mno-avx512bw",
    "AVX2": "-mno-avx512f",
    "AVX2, tuned for Haswell": "-mno-avx512f -mtune=haswell",
    # GCC contracts some sums there and not others, so this fails without -ffp-contract=off.
    "AVX2, tuned for AMD": "-mno-avx512f -mtune=znver3",
    "AVX2 without FMA": "-mno-avx512f -mno-fma",
    "AVX2 without F16C": "-mno-avx512f -mno-f16c",
    "AVX": "-mno-avx2",
    "SSE4": "-mno-avx",
    "SSE2": "-mno-sse3",
}
KERNELS = {"AVX2": "AVX2 and FMA", "AVX2 without FMA": "AVX2", "SSE2": "vectors of four"}
WHOLE_STEPS = ("native", "no products of bytes", "AVX2, tuned for AMD", "AVX", "SSE2")


@pytest.fixture
def restricted(request: pytest.FixtureRequest, libraries: Path) -> ctypes.CDLL:
    try:
        library = compile_with(libraries, *RESTRICTIONS[request.param].split())
    except ModelError as error:
        pytest.skip(str(error))  # no compiler, or one for another kind of processor
    if request.param in KERNELS and "AVX-512" in kernel(compile_with(libraries)):
        assert kernel(library) == KERNELS[request.param]
    return library


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def grid(bits: int, n_out: int, n_in: int) -> Tensor:
    """A weight that this many bits hold exactly."""
    steps = torch.randint(
        0, 16, (n_out, n_in // 32, 32), generator=torch.Generator().manual_seed(1)
    )
    steps[..., 0], steps[..., 1] = 0, 15
    size = torch.linspace(0.01, 0.05, n_out).half().float()[:, None, None]
    if bits == 4:
        size[3:4] = 2.0**-20  # subnormal as a float16
    if bits == 4:
        return (steps * size - (5 * size).half().float()).reshape(n_out, n_in)
    found = (8 * steps - 60.0) * size
    found[..., 2] = 127 * size[..., 0]
    return found.reshape(n_out, n_in)


@pytest.mark.parametrize("restricted", RESTRICTIONS, indirect=True)
def test_a_product_is_the_layers_own_in_any_company(restricted: ctypes.CDLL) -> None:
    for bits in (4, 8):
        for n_out, n_in in [(1, 32), (7, 96), (64, 160), (33, 64)]:
            layer = nn.Linear(n_in, n_out).requires_grad_(False)
            layer.weight.data = grid(bits, n_out, n_in)
            linear = QuantizedLinear.concatenated(restricted, layer)
            rows = random(9, n_in)
            assert (linear.bits, linear.exact) == (bits, True)
            whole = linear(rows)
            torch.testing.assert_close(whole, layer(rows), atol=1e-5, rtol=1e-5)
            for n in range(1, 9):
                assert torch.equal(linear(rows[:n]), whole[:n])
                assert torch.equal(linear(rows[n:], 2), whole[n:])
        check_precision(restricted, bits)
    check_broken_numbers(restricted)


def check_precision(library: ctypes.CDLL, bits: int) -> None:
    """As exact as float32, measured by the numbers of a group of 32 as large as they may be. Also
    where a row's are of very different sizes, as a residual's are."""
    weight = grid(bits, 64, 576)
    linear = QuantizedLinear(library, weight)
    assert linear.exact
    rows = random(8, 576) * torch.logspace(-3, 2, 576)[torch.randperm(576)]
    rows[1, 5], rows[2] = 1e4, 0
    exact = rows.double() @ weight.double().T
    most = weight.unflatten(1, (-1, 32)).abs().amax(dim=2, keepdim=True)
    size = rows.double().abs() @ most.expand(-1, -1, 32).flatten(1).double().T
    error = (linear(rows) - exact).abs() / size.clamp_min(1e-30)
    assert float(error.max()) < 1e-6


def check_broken_numbers(library: ctypes.CDLL) -> None:
    """NaN and infinity come through, in their row."""
    linear = QuantizedLinear(library, grid(4, 20, 64))
    for broken in (torch.nan, torch.inf, -torch.inf):
        for index in (0, 31, 40):
            rows = random(3, 64)
            rows[1, index] = broken
            found = linear(rows)
            assert found.isfinite().all(dim=1).tolist() == [True, False, True]
            assert not found[1].isfinite().any()


def copy_cache(batch: Batch, row: int, own: Batch) -> None:
    """Give a row the cache of its solo run, with NaN in its padding. The model itself prefills, and
    makes no promise of equal bits."""
    width = own.attention_mask.shape[1]
    with torch.inference_mode():
        for layer, others in zip(batch.cache.layers, own.cache.layers, strict=True):
            for mine, theirs in ((layer.keys, others.keys), (layer.values, others.values)):
                mine[row, :, -width:], mine[row, :, :-width] = theirs[0], torch.nan


@pytest.mark.parametrize("restricted", WHOLE_STEPS, indirect=True)
def test_a_step_is_the_models_own_in_any_company(restricted: ctypes.CDLL) -> None:
    """Beside longer rows, behind padding and with either number of threads."""
    model = compiled("qwen3", restricted)
    own = Row(PROMPTS[1], steering(model, 1, "response"))
    plain = logits_of(on_a_grid(small("qwen3")), [own, Row(PROMPTS[0])])
    torch.testing.assert_close(
        logits_of(model, [own, Row(PROMPTS[0])]), plain, atol=1e-4, rtol=1e-4
    )
    torch.set_num_threads(1)
    batch, _ = model.prefill([own])
    tokens = range(66, 74)
    expected = [model.decode_step(batch, [token]).logits[0] for token in tokens]
    long = Row(PROMPTS[1] * 3, steering(model, 0, "all"))
    company = [Row(PROMPTS[0]), own, long, Row(PROMPTS[2]), long, own]
    for n, threads in ((2, 1), (3, 2), (6, 2)):
        torch.set_num_threads(threads)
        batch, _ = model.prefill(company[:n])
        copy_cache(batch, 1, model.prefill([own])[0])
        for token, alone in zip(tokens, expected, strict=True):
            found = model.decode_step(batch, [token - 20, token, *[token + 9] * (n - 2)]).logits[1]
            assert torch.equal(found, alone)
