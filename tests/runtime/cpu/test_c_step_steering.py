"""What the compiled step adds to a residual is what `add_direction` adds, and it is counted."""

import ctypes
from dataclasses import replace

import pytest
import torch
from step_models import PROMPTS, logits_of, native, on_a_grid, small, steering
from tiny import together

import saif.runtime.steering_hook as edits_module
from saif.core.steering import LatentEncoder, Steering
from saif.core.types import Schedule
from saif.errors import SteeringError
from saif.runtime.batch import Row
from saif.runtime.language_model import LanguageModel
from saif.runtime.steering_hook import SteeringHook

LAST = 2


def clamp(model: LanguageModel) -> LatentEncoder:
    torch.manual_seed(3)
    encoder, decoder = torch.randn(2, 2, model.d_model)
    return LatentEncoder(encoder, torch.zeros(2), torch.zeros(2), decoder)


def shapes(model: LanguageModel) -> dict[str, Steering]:
    every = together(*(steering(model, layer, "all", 1 + layer) for layer in (0, 1, LAST)))
    return {
        "every layer": every,
        "fading": replace(every, schedule=Schedule(half_life=2)),
        "keeps its norm": replace(every, schedule=Schedule(keep_norm=True)),
        "clamped in the middle": replace(every, clamped={1: clamp(model)}),
        "clamped at the end": replace(every, clamped={LAST: clamp(model)}),
        "a direction that lies with gaps": replace(
            every,
            directions={
                layer: torch.stack([direction, direction], dim=1)[:, 0]
                for layer, direction in every.directions.items()
            },
        ),
    }


@pytest.mark.parametrize("shape", list(shapes(small("llama"))))
def test_every_shape_of_push_gives_what_the_model_gives(shape: str, library: ctypes.CDLL) -> None:
    """Beside rows with other shapes at the same layers, and for longer than a push fades."""
    model = native("llama", library)
    other = steering(model, 1, "response", 7)
    starts = [
        Row(PROMPTS[0], shapes(model)[shape]),
        Row(PROMPTS[1]),
        Row(PROMPTS[2], other),
        Row(PROMPTS[1], replace(other, schedule=Schedule(keep_norm=True))),
    ]
    plain = logits_of(on_a_grid(small("llama")), starts, 12)
    torch.testing.assert_close(logits_of(model, starts, 12), plain, atol=5e-4, rtol=1e-4)


def test_what_only_adds_is_added_in_compiled_code(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native("llama", library)
    every = shapes(model)
    batch, _ = model.prefill([Row(PROMPTS[0], every["fading"]), Row(PROMPTS[1])])
    other, _ = model.prefill([Row(PROMPTS[0], every["clamped in the middle"])])
    calls: list[int] = []
    monkeypatch.setattr(
        edits_module, "add_direction", lambda resid, *_, **__: calls.append(1) or resid + 1
    )
    assert model.decode_step(batch, [65, 66]).steered == (1, 0)
    assert not calls
    model.decode_step(other, [65])
    assert len(calls) == 1  # the one layer of three whose latents are clamped


def test_a_push_that_changes_nothing_is_an_error(library: ctypes.CDLL) -> None:
    model = native("llama", library)
    faint = steering(model, 1, "response")
    batch, _ = model.prefill([Row(PROMPTS[1]), Row(PROMPTS[0], faint)])
    batch.rows[1].steering = replace(faint, directions={1: faint.directions[1] * 1e-30})
    wanted = r"layer 1 changed \[0, 0\] positions instead of \[0, 1\]"
    with pytest.raises(SteeringError, match=wanted):
        model.decode_step(batch, [65, 66])
    assert not model._lock.locked()


def test_a_plain_row_that_was_changed_is_an_error(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native("llama", library)
    batch, _ = model.prefill([Row(PROMPTS[1]), Row(PROMPTS[0], steering(model, 1, "all"))])
    own = SteeringHook.added
    monkeypatch.setattr(SteeringHook, "added", lambda self: {0: own(self)[1], 1: own(self)[1]})
    with pytest.raises(SteeringError, match=r"changed \[1, 1\] positions instead of \[0, 1\]"):
        model.decode_step(batch, [65, 66])


def test_what_was_added_in_one_step_is_not_added_in_the_next(library: ctypes.CDLL) -> None:
    """A push that has faded leaves the row as it would be if nothing had ever been pushed since."""
    model, plain = native("llama", library), on_a_grid(small("llama"))
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


def test_a_nan_forced_past_the_check_stays_in_its_row(library: ctypes.CDLL) -> None:
    model = native("llama", library)
    push = steering(model, 1, "response")
    starts = [Row(PROMPTS[0]), Row(PROMPTS[0], push)]
    batch, clean = model.prefill(starts)[0], model.prefill(starts)[0]
    broken = replace(push)
    object.__setattr__(broken, "directions", {1: torch.full((model.d_model,), torch.nan)})
    batch.rows[1].steering = broken
    found = model.decode_step(batch, [65, 65]).logits
    assert torch.equal(found[0], model.decode_step(clean, [65, 65]).logits[0])
    assert found[1].isnan().all()


def test_a_nan_is_not_added_where_its_row_is_not_steered(library: ctypes.CDLL) -> None:
    model = native("llama", library)
    push = steering(model, 1, "prompt")
    batch, _ = model.prefill([Row(PROMPTS[0], push), Row(PROMPTS[0], push)])
    object.__setattr__(push, "directions", {1: torch.full((model.d_model,), torch.nan)})
    batch.rows[1].steering = steering(model, 1, "response")
    result = model.decode_step(batch, [65, 65])
    assert result.steered == (0, 1)
    assert result.logits.isfinite().all()


def test_a_token_that_does_not_exist_is_refused(library: ctypes.CDLL) -> None:
    """Its embedding would be read from beyond the end."""
    model = native("llama", library)
    for token in (-1, len(model.tokenizer)):
        batch, _ = model.prefill([Row(PROMPTS[0])])
        with pytest.raises(IndexError):
            model.decode_step(batch, [token])


@pytest.mark.parametrize("rope_type", ["dynamic", "yarn"])
def test_turns_that_depend_on_the_length_are_left_to_the_other_step(
    rope_type: str, library: ctypes.CDLL
) -> None:
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 2.0}
    model = on_a_grid(small("llama", rope_parameters=rope))
    starts = [Row(ids * 5) for ids in PROMPTS]
    plain = logits_of(model, starts, 180)
    model.make_lean(packed=True, library=library)
    assert model.lean is not None
    assert model.lean.compiled == (rope_type == "yarn")
    if model.lean.compiled:
        torch.testing.assert_close(logits_of(model, starts, 180), plain, atol=2e-4, rtol=2e-4)
