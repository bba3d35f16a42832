"""What only the C step has: buffers that it keeps, rounded weights, steering in compiled code."""

import ctypes
from dataclasses import replace

import pytest
import torch
from step_models import PROMPTS, compiled, logits_of, on_a_grid, run, small, steering

import saif.runtime.steering_hook as steering_hook
from saif.core.types import Schedule
from saif.decoding import Sampling
from saif.errors import SteeringError
from saif.runtime.batch import Row
from saif.runtime.cpu.torch_step import TorchDecoder
from saif.runtime.steering_hook import SteeringHook


def test_weights_out_of_a_gguf_file_lose_nothing(c_library: ctypes.CDLL) -> None:
    decoder = compiled("llama", c_library).decoder
    assert {linear.bits for linear in decoder._linears} == {4}
    assert all(linear.exact for linear in (decoder._head, *decoder._linears))


def test_other_weights_lose_little_and_it_says_so(c_library: ctypes.CDLL) -> None:
    starts = [Row(ids) for ids in PROMPTS]
    plain, model = small("qwen2"), small("qwen2")
    model.use_fast_decoder(c_library)
    assert {linear.bits for linear in model.decoder._linears} == {8}
    expected, found = logits_of(plain, starts), logits_of(model, starts)
    assert torch.equal(found[0], expected[0])  # the prompt is prefilled by the model itself
    error = float((found - expected).norm() / expected.norm())
    assert 0 < error < 0.06  # random weights are the worst case
    assert "8-bit weights (rounded)" in model.decoder.describe()


def test_the_likeliest_tokens_have_exact_logits(
    c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small("llama")
    model.use_fast_decoder(c_library)
    decoder, x = model.decoder, torch.randn(3, model.d_model)
    exact = x @ decoder._unembedding.T
    assert not decoder._head.exact
    monkeypatch.setattr("saif.runtime.cpu.c_step._CANDIDATES", 20)
    found, best = decoder._logits(x), exact.topk(10, dim=1).indices
    torch.testing.assert_close(found.gather(1, best), exact.gather(1, best))
    assert not torch.allclose(found, exact, atol=1e-5)


def test_sizes_that_it_cannot_take_are_left_to_the_torch_step(c_library: ctypes.CDLL) -> None:
    for options in ({"intermediate_size": 72}, {"head_dim": 24}):
        model = small("llama", **options)
        model.use_fast_decoder(c_library)
        assert type(model.decoder) is TorchDecoder


def test_a_reply_outgrows_the_memory_of_its_cache(c_library: ctypes.CDLL) -> None:
    plain, model = on_a_grid(small("llama")), compiled("llama", c_library)
    plain.end_ids = model.end_ids = frozenset()
    row = Row(PROMPTS[1] * 4, sampling=Sampling(max_new_tokens=300))
    assert run(model, [row]) == run(plain, [row])


def test_a_token_that_does_not_exist_is_refused(c_library: ctypes.CDLL) -> None:
    """Its embedding would be read from beyond the end."""
    model = compiled("llama", c_library)
    for token in (-1, len(model.tokenizer)):
        batch, _ = model.prefill([Row(PROMPTS[0])])
        with pytest.raises(IndexError):
            model.decode_step(batch, [token])


def test_what_only_adds_is_added_in_compiled_code(
    c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled("llama", c_library)
    spec = steering(model, 1, "response")
    batch, _ = model.prefill([Row(PROMPTS[0], spec), Row(PROMPTS[1])])
    other, _ = model.prefill([Row(PROMPTS[0], replace(spec, schedule=Schedule(keep_norm=True)))])
    calls: list[int] = []
    monkeypatch.setattr(
        steering_hook, "add_direction", lambda resid, *_, **__: calls.append(1) or resid + 1
    )
    assert model.decode_step(batch, [65, 66]).steered == (1, 0)
    assert not calls
    model.decode_step(other, [65])
    assert len(calls) == 1


def test_a_plain_row_that_was_changed_is_an_error(
    c_library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled("llama", c_library)
    batch, _ = model.prefill([Row(PROMPTS[1]), Row(PROMPTS[0], steering(model, 1, "all"))])
    own = SteeringHook.added
    monkeypatch.setattr(SteeringHook, "added", lambda self: {0: own(self)[1], 1: own(self)[1]})
    with pytest.raises(SteeringError, match=r"changed \[1, 1\] positions instead of \[0, 1\]"):
        model.decode_step(batch, [65, 66])


def test_what_was_added_in_one_step_is_not_added_in_the_next(c_library: ctypes.CDLL) -> None:
    """Steering that has faded leaves the row as if there were none."""
    model, plain = compiled("llama", c_library), on_a_grid(small("llama"))
    fading = replace(steering(model, 1, "response"), schedule=Schedule(half_life=1))
    steered = []
    batch, result = model.prefill([Row(PROMPTS[0], fading)])
    expected, _ = plain.prefill([Row(PROMPTS[0], fading)])
    for token in range(65, 75):
        result = model.decode_step(batch, [token])
        steered.append(result.steered[0])
        other = plain.decode_step(expected, [token])
        torch.testing.assert_close(result.logits, other.logits, atol=1e-4, rtol=1e-4)
    assert steered == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
