"""From a preset and the panel's controls to a steering."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model, tiny_preset

from saif.core.types import SPANS, Schedule
from saif.errors import InputError, PresetError
from saif.presets.controls import MAX_STRENGTH, Controls
from saif.presets.preset import LoadedPreset

NORM = 6.0  # the tiny preset's residual norm, dose 1.0 and k 4 at layer 1


@pytest.fixture(scope="module")
def preset() -> LoadedPreset:
    return tiny_preset(tiny_model())


def vector(preset: LoadedPreset, **controls) -> torch.Tensor:
    steering = preset.steering(**controls)
    (direction,) = steering.directions.values()
    assert list(steering.directions) == list(steering.layers)
    return direction


def test_without_any_control_the_calibrated_choice_is_applied(preset: LoadedPreset) -> None:
    steering = preset.steering()
    assert (steering.layers, steering.k) == ((1,), 4)
    assert (steering.strength, steering.span) == (1.0, "response")
    assert steering.total_dose == steering.dose[1] == 1.0
    assert float(steering.directions[1].norm()) == pytest.approx(NORM)


def test_the_panel_s_controls_and_the_arguments_are_the_same(preset: LoadedPreset) -> None:
    asked = {"placement": "pre", "strength": 0.5, "k": 3, "layer": 3, "span": "all"}
    by_name, by_value = preset.steering(**asked), preset.steering_with(Controls(**asked))
    assert by_name.latents == by_value.latents == {3: (10, 11, 12)}
    assert (by_name.dose, by_name.span, by_name.strength) == ({3: 0.5}, "all", 0.5)
    assert torch.equal(by_name.directions[3], by_value.directions[3])
    for name in asked:  # each of them changes something
        other = preset.steering(**{key: asked[key] for key in asked if key != name})
        same = other.latents == by_name.latents and other.span == by_name.span
        assert not same or not torch.equal(other.directions[3], by_name.directions[3])


def test_the_direction_is_the_chosen_latents_rows_times_their_deltas(preset: LoadedPreset) -> None:
    """Latents 10 to 13 have the largest |Δ| (8, 7, 6, 5), of alternating sign."""
    assert preset.steering("pre").latents == {1: (10, 11, 12, 13)}
    raw = torch.tensor([8.0, -7.0, 6.0, -5.0]) @ preset.vectors[1].decoder[:4]
    found = vector(preset, placement="pre")
    torch.testing.assert_close(found, raw * NORM / raw.norm(), atol=1e-4, rtol=1e-4)
    # The other placement has the opposite Δ in the tiny preset.
    torch.testing.assert_close(vector(preset, placement="post"), -found)


@pytest.mark.parametrize("strength", [0.25, 1.0, 2.5, MAX_STRENGTH])
@pytest.mark.parametrize("k", [1, 4, 8])
@pytest.mark.parametrize("layer", [1, 3])
def test_strength_means_the_same_dose_at_every_k_and_layer(
    preset: LoadedPreset, strength: float, k: int, layer: int
) -> None:
    steering = preset.steering(strength=strength, k=k, layer=layer)
    assert steering.total_dose == steering.dose[layer] == pytest.approx(strength)
    assert float(steering.directions[layer].norm()) == pytest.approx(strength * NORM, rel=1e-5)
    assert (steering.k, len(steering.latents[layer])) == (k, k)


def test_strength_scales_and_does_not_turn_the_direction(preset: LoadedPreset) -> None:
    torch.testing.assert_close(vector(preset, strength=2.0), 2 * vector(preset, strength=1.0))


def test_other_layers_and_ks_are_other_directions(preset: LoadedPreset) -> None:
    assert not torch.allclose(vector(preset, layer=1), vector(preset, layer=3))
    assert not torch.allclose(vector(preset, k=2), vector(preset, k=3))


def test_a_layer_other_than_the_calibrated_one_is_steered_alone(preset: LoadedPreset) -> None:
    choice = replace(preset.preset.placements["post"].choice, extra_layers=(3,))
    two = preset.with_part("post", choice=choice)
    assert two.steering().dose == two.steering(layer=1).dose == {1: 0.5, 3: 0.5}
    assert two.steering(layer=3).dose == {3: 1.0}


@pytest.mark.parametrize(("strength", "share"), [(0.5, 0.5), (1.0, 1.0), (2.0, 1.0)])
def test_a_clamp_takes_away_as_much_as_the_strength_and_never_more_than_all(
    preset: LoadedPreset, strength: float, share: float
) -> None:
    choice = replace(preset.preset.placements["post"].choice, schedule=Schedule(clamp=True))
    clamped = preset.with_part("post", choice=choice).steering(strength=strength).clamped
    assert torch.equal(clamped[1].decoder, share * preset.vectors[1].decoder[:4])


def test_more_latents_than_are_stored_are_all_of_them(preset: LoadedPreset) -> None:
    steering = preset.steering(k=64)
    assert (steering.k, len(steering.latents[1])) == (8, 8)


@pytest.mark.parametrize("span", SPANS)
def test_the_span_is_passed_on(preset: LoadedPreset, span) -> None:
    assert preset.steering(span=span).span == span


def test_strength_zero_is_no_steering_at_all(preset: LoadedPreset) -> None:
    steering = preset.steering(strength=0.0)
    assert steering.off
    assert (steering.directions, steering.clamped) == ({}, {})
    assert (steering.total_dose, steering.strength, steering.k) == (0.0, 0.0, 4)
    assert (steering.layers, steering.latents) == ((1,), {1: (10, 11, 12, 13)})


@pytest.mark.parametrize(
    ("controls", "reason"),
    [
        ({"strength": -0.1}, "strength must lie between 0 and 3"),
        ({"strength": 3.01}, "strength must lie between 0 and 3"),
        ({"strength": math.nan}, "strength must lie between 0 and 3, not nan"),
        ({"strength": math.inf}, "strength"),
        ({"k": 0}, "k must lie between 1 and 64, not 0"),
        ({"k": 65}, "k must lie between 1 and 64, not 65"),
        ({"k": -3}, "k must"),
        ({"layer": 2}, "no SAE at layer 2"),
        ({"layer": -1}, "no SAE at layer -1"),
        ({"layer": 99}, "no SAE at layer 99"),
        ({"span": "reply"}, "'reply' is not a span"),
        ({"placement": "middle"}, "'middle' is not a placement"),
    ],
)
def test_a_control_out_of_range_is_refused_in_words(
    preset: LoadedPreset, controls: dict[str, object], reason: str
) -> None:
    for strength in (1.0, 0.0):  # at strength zero too
        with pytest.raises(InputError, match=reason):
            preset.steering(**{"strength": strength, **controls})


def test_a_preset_without_a_direction_is_refused(preset: LoadedPreset) -> None:
    vectors = {
        layer: replace(v, decoder=torch.zeros_like(v.decoder))
        for layer, v in preset.vectors.items()
    }
    with pytest.raises(PresetError, match="no direction at layer 1"):
        replace(preset, vectors=vectors).steering()


def test_a_preset_belongs_to_one_model(preset: LoadedPreset) -> None:
    model = preset.preset.model
    preset.check_model(model)
    with pytest.raises(PresetError, match=r"for tests/tiny-llama, not for other/model\."):
        preset.check_model(model.model_copy(update={"id": "other/model"}))
    with pytest.raises(PresetError, match="same name, other weights"):
        preset.check_model(model.model_copy(update={"fingerprint": "0" * 16}))
