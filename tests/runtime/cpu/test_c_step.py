"""The compiled decoding step computes what the model does, with equal bits in any company."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from step_models import (
    LEAN_KINDS,
    PROMPTS,
    logits_of,
    native,
    on_a_grid,
    rows_of,
    run,
    small,
    steering,
)
from torch import Tensor, nn

from saif.core.types import SPANS, Span
from saif.decoding import Sampling
from saif.engine.local import LocalEngine, SharedEngine
from saif.engine.protocol import Message, Request, complete
from saif.errors import ModelError
from saif.runtime.batch import Batch, Row
from saif.runtime.cpu import build
from saif.runtime.cpu.torch_step import LeanDecoder
from saif.runtime.cpu.weights import GroupedLinear


@pytest.mark.parametrize("kind", LEAN_KINDS)
def test_its_logits_are_the_models_own(kind: str, library: ctypes.CDLL) -> None:
    starts = [
        Row(PROMPTS[0], steering(small(kind), 1, "response")),
        Row(PROMPTS[1]),
        Row(PROMPTS[2], steering(small(kind), 2, "all", 4)),
        Row(PROMPTS[0] * 3),
        Row(PROMPTS[1]),
    ]
    plain = logits_of(on_a_grid(small(kind)), starts)
    model = native(kind, library)
    assert {linear.bits for linear in model.lean._linears} == {4}
    assert all(linear.exact for linear in (model.lean._head, *model.lean._linears))
    torch.testing.assert_close(logits_of(model, starts), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", LEAN_KINDS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("span", SPANS)
def test_its_replies_are_the_models_own(
    kind: str, span: Span, temperature: float, library: ctypes.CDLL
) -> None:
    plain = on_a_grid(small(kind))
    rows = rows_of(plain, span, temperature=temperature, top_p=0.95)
    assert run(native(kind, library), rows) == run(plain, rows)


def test_a_reply_outgrows_the_room_that_its_cache_has(library: ctypes.CDLL) -> None:
    plain, model = on_a_grid(small("llama")), native("llama", library)
    plain.end_ids = model.end_ids = frozenset()
    row = Row(PROMPTS[1] * 4, sampling=Sampling(max_new_tokens=300))
    assert run(model, [row]) == run(plain, [row])


def copy_cache(batch: Batch, row: int, own: Batch) -> None:
    """Let a row remember what another run read, and hide NaN behind its padding. The model reads
    prompts, and makes no promise of equal bits."""
    width = own.attention_mask.shape[1]
    with torch.inference_mode():
        for layer, others in zip(batch.cache.layers, own.cache.layers, strict=True):
            for mine, theirs in ((layer.keys, others.keys), (layer.values, others.values)):
                mine[row, :, -width:], mine[row, :, :-width] = theirs[0], torch.nan


@pytest.mark.parametrize(("kind", "threads"), [("llama", 1), ("qwen3", 1), ("llama", 2)])
def test_a_row_gets_the_same_bits_in_any_company(
    kind: str, threads: int, library: ctypes.CDLL
) -> None:
    """Beside longer rows, behind padding and with either number of threads."""
    model = native(kind, library)
    own = Row(PROMPTS[1], steering(model, 1, "response"))
    batch, _ = model.prefill([own])
    tokens = range(66, 74)
    expected = [model.decode_step(batch, [token]).logits[0] for token in tokens]
    long = Row(PROMPTS[1] * 3, steering(model, 0, "all"))
    company = [Row(PROMPTS[0]), own, long, Row(PROMPTS[2]), long, own]
    torch.set_num_threads(threads)
    for n in (2, 3, 6):
        batch, _ = model.prefill(company[:n])
        copy_cache(batch, 1, model.prefill([own])[0])
        for token, alone in zip(tokens, expected, strict=True):
            found = model.decode_step(batch, [token - 20, token, *[token + 9] * (n - 2)]).logits[1]
            assert torch.equal(found, alone)


def test_an_unsteered_row_is_not_touched_by_the_steered_one(library: ctypes.CDLL) -> None:
    model = native("llama", library)
    plain = Row(PROMPTS[1], sampling=Sampling(max_new_tokens=24))
    pushed = Row(
        token_ids=PROMPTS[1],
        sampling=Sampling(max_new_tokens=24),
        steering=steering(model, 1, "all"),
    )
    first, steered, second = run(model, [plain, pushed, plain])
    assert first == second == run(model, [plain])[0]
    assert steered != first


def test_many_people_get_what_each_would_get_alone(library: ctypes.CDLL) -> None:
    model = native("llama", library)
    requests = [
        Request(messages=(Message("user", text),), steering=push, sampling=Sampling(seed=seed))
        for seed, (text, push) in enumerate(
            [("Hi", None), ("Tell me more.", steering(model, 1, "response")), ("What?", None)]
        )
    ]
    expected = [complete(LocalEngine(model), [request])[0] for request in requests]
    assert complete(SharedEngine(model, cache_bytes=1 << 24), requests) == expected


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_weights_on_no_grid_lose_little(kind: str, library: ctypes.CDLL) -> None:
    starts = [Row(ids) for ids in PROMPTS]
    plain, model = small(kind), small(kind)
    model.make_lean(packed=True, library=library)
    assert {linear.bits for linear in model.lean._linears} == {8}
    expected, found = logits_of(plain, starts), logits_of(model, starts)
    assert (
        float((found - expected).norm() / expected.norm()) < 0.06
    )  # random weights are the worst case
    assert not torch.equal(found, expected)


@pytest.mark.parametrize("options", [{"intermediate_size": 72}, {"head_dim": 24}])
def test_sizes_that_it_cannot_take_are_left_to_the_other_step(
    options: dict[str, Any], library: ctypes.CDLL
) -> None:
    model = small("llama", **options)
    model.make_lean(packed=True, library=library)
    assert isinstance(model.lean, LeanDecoder)


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
        return (steps * size - (5 * size).half().float()).reshape(n_out, n_in)
    found = (8 * steps - 60.0) * size
    found[..., 2] = 127 * size[..., 0]
    return found.reshape(n_out, n_in)


@pytest.mark.parametrize(("n_out", "n_in"), [(1, 32), (7, 96), (64, 160), (33, 64)])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_is_the_layers_own(
    n_out: int, n_in: int, bits: int, library: ctypes.CDLL
) -> None:
    layer = nn.Linear(n_in, n_out).requires_grad_(False)
    layer.weight.data = grid(bits, n_out, n_in)
    grouped, rows = GroupedLinear.of(library, layer), random(9, n_in)
    assert (grouped.bits, grouped.exact) == (bits, True)
    torch.testing.assert_close(grouped(rows), layer(rows), atol=1e-5, rtol=1e-5)
    for n in range(1, 9):
        assert torch.equal(grouped(rows[:n]), grouped(rows)[:n])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_is_as_exact_as_float32(bits: int, library: ctypes.CDLL) -> None:
    """Measured by the numbers of a group of 32 as large as they may be. Also where a row's are of
    very different sizes, as a residual's are."""
    layer = nn.Linear(576, 64, bias=False).requires_grad_(False)
    layer.weight.data = grid(bits, 64, 576)
    rows = random(8, 576) * torch.logspace(-3, 2, 576)[torch.randperm(576)]
    rows[1, 5], rows[2] = 1e4, 0
    exact = rows.double() @ layer.weight.double().T
    most = layer.weight.unflatten(1, (-1, 32)).abs().amax(dim=2, keepdim=True)
    size = rows.double().abs() @ most.expand(-1, -1, 32).flatten(1).double().T

    found = GroupedLinear.of(library, layer)(rows)
    assert float(((found - exact).abs() / size.clamp_min(1e-30)).max()) < 5e-7


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 31, 40])
def test_a_broken_number_is_not_hidden(broken: float, place: int, library: ctypes.CDLL) -> None:
    layer = nn.Linear(64, 20, bias=False).requires_grad_(False)
    layer.weight.data = grid(4, 20, 64)
    rows = random(3, 64)
    rows[1, place] = broken
    found = GroupedLinear.of(library, layer)(rows)
    assert found.isfinite().all(dim=1).tolist() == [True, False, True]
    assert not found[1].isfinite().any()


def test_opening_the_library_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    build.library.cache_clear()
    assert build.library() is None
    assert not any(tmp_path.iterdir())
    build.library.cache_clear()


def test_a_library_for_another_processor_is_not_opened(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = build.library_path()
    monkeypatch.setattr(build, "_processor", lambda: b"another")
    assert build.library_path() != own


def test_a_damaged_library_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    build.library.cache_clear()
    build.library_path().write_bytes(b"no library")
    assert build.library() is None
    build.library.cache_clear()


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    refused = SimpleNamespace(returncode=1, stderr="error: no such option\nmore")
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(ModelError, match="no such option"):
        build.compile_library()
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    with pytest.raises(ModelError, match="no C compiler"):
        build.compile_library()
    assert not any(tmp_path.iterdir())


def test_what_was_compiled_for_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAIF_CACHE", str(tmp_path))
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/bin/{name}")

    def writes_no_library(command: list[str], **_: Any) -> SimpleNamespace:
        Path(command[command.index("-o") + 1]).write_bytes(b"no library")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(build.subprocess, "run", writes_no_library)
    build.library.cache_clear()
    with pytest.raises(ModelError, match="can't be opened"):
        build.compile_library()
    build.library.cache_clear()
