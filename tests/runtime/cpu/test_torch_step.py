"""The lean decoding step computes what the model does."""

from typing import Any

import pytest
import torch
from step_models import LEAN_KINDS, PROMPTS, logits_of, rows_of, run, small, steering
from tiny import tiny_model, tiny_steering

import saif.runtime.steering_hook as edits_module
from saif.core.types import SPANS, Span
from saif.decoding import Sampling
from saif.errors import SteeringError
from saif.runtime.batch import Row
from saif.runtime.cpu.torch_step import can_be_lean


@pytest.mark.parametrize("kind", LEAN_KINDS)
def test_its_logits_are_the_models_own(kind: str) -> None:
    model = small(kind)
    starts = [
        Row(PROMPTS[0], steering(model, 1, "response")),
        Row(PROMPTS[1]),
        Row(PROMPTS[2], steering(model, 2, "all", 4)),
    ]
    plain = logits_of(model, starts)
    model.make_lean(packed=False)
    assert model.lean is not None
    torch.testing.assert_close(logits_of(model, starts), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", LEAN_KINDS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("span", SPANS)
def test_its_replies_are_the_models_own(kind: str, span: Span, temperature: float) -> None:
    model = small(kind)
    rows = rows_of(model, span, temperature=temperature, top_p=0.95)
    plain = run(model, rows)
    model.make_lean(packed=False)
    assert run(model, rows) == plain


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_equals_its_solo_run(packed: bool, temperature: float) -> None:
    model = small("llama")
    model.make_lean(packed=packed)
    rows = rows_of(model, temperature=temperature)
    assert run(model, rows) == [run(model, [row])[0] for row in rows]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_unsteered_row_is_not_touched_by_the_steered_one(
    packed: bool, temperature: float
) -> None:
    """Two equal rows draw equal tokens, whatever a third is steered with."""
    model = small("llama")
    model.make_lean(packed=packed)
    sampling = Sampling(max_new_tokens=24, temperature=temperature)
    plain = Row(PROMPTS[1], sampling=sampling)
    pushed = Row(PROMPTS[1], sampling=sampling, steering=steering(model, 1, "all"))
    first, steered, second = run(model, [plain, pushed, plain])
    assert first == second == run(model, [plain])[0]
    assert steered != first


def test_packed_weights_change_little() -> None:
    model = small("llama")
    starts = [Row(ids) for ids in PROMPTS]
    plain = logits_of(model, starts)
    model.make_lean(packed=True)
    packed = logits_of(model, starts)
    assert torch.equal(packed[0], plain[0])  # the prompt is read in full
    assert float((packed - plain).norm() / plain.norm()) < 0.06  # random weights are the worst case
    assert not torch.equal(packed, plain)


def test_reading_is_left_to_the_model_itself() -> None:
    model = tiny_model()
    expected = model.residuals(PROMPTS, [1, 3]), model.log_probabilities([(PROMPTS[1], [65, 66])])
    model.make_lean(packed=True)
    found = model.residuals(PROMPTS, [1, 3]), model.log_probabilities([(PROMPTS[1], [65, 66])])
    assert torch.equal(found[0][0][3], expected[0][0][3])
    assert torch.equal(found[1][0], expected[1][0])


def test_a_push_that_gets_lost_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    model.make_lean(packed=True)
    batch, _ = model.prefill([Row(PROMPTS[0], tiny_steering(3))])
    model.lean._blocks.pop()  # the last block is skipped, and the edit with it
    with pytest.raises(SteeringError, match=r"layer 3 changed \[0\] positions instead of \[1\]"):
        model.decode_step(batch, [65])
    assert not model._lock.locked()
    monkeypatch.setattr(edits_module, "pushed", lambda resid, *_, **__: resid)
    model = tiny_model()
    with pytest.raises(SteeringError):
        model.prefill([Row(PROMPTS[0], tiny_steering(1))])


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mistral", {"sliding_window": 8}),
        ("llama", {"hidden_act": "gelu"}),
        ("gemma", {}),
        ("granite", {}),
    ],
)
def test_another_shape_is_left_as_it_is(kind: str, options: dict[str, Any]) -> None:
    model = small(kind, **options)
    model.make_lean(packed=True)
    assert model.lean is None
    run(model, rows_of(model))


def test_what_is_not_plain_float32_on_the_cpu_is_left_as_it_is() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    assert not can_be_lean(model._model, model.blocks)
    model = tiny_model()
    model.blocks[0].mlp.up_proj = torch.nn.Sequential(model.blocks[0].mlp.up_proj)
    model.blocks[1].mlp._hf_hook = object()
    assert not can_be_lean(model._model, model.blocks)


def test_the_copy_is_counted_as_memory() -> None:
    model = tiny_model()
    before = model.memory
    model.make_lean(packed=False)
    assert model.memory == before
    model.make_lean(packed=True)
    assert before < model.memory < 1.5 * before
