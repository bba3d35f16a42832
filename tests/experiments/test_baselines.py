from dataclasses import replace
from typing import Any

import pytest
import torch
from made_up import D_SAE, FALLING, instructions, planted_sae, with_choice
from torch import Tensor

from saif.core.selection import coefficients, rank
from saif.core.types import Schedule
from saif.errors import InputError, PresetError
from saif.experiments.baselines import (
    ALL_CONDITIONS,
    NEUTRAL_SUFFIX,
    Condition,
    Subject,
    message_for,
    plain_saif,
    random_latents,
    spec_for,
    steering_of,
)
from saif.presets.instructions import place
from saif.presets.preset import LoadedPreset
from saif.presets.spec import LatentSource, SteeringSpec
from saif.runtime.sae import Sae

NORM = 6.0


@pytest.fixture
def chosen(preset: LoadedPreset) -> LoadedPreset:
    """A choice in which every value differs from its default, and latents that vary."""
    table = preset.preset.placements["post"].table(1)
    table.latents[:] = [
        latent.model_copy(update={"std": 1.0 + latent.id}) for latent in table.latents
    ]
    return with_choice(
        preset, "post", layer=1, selection="contrast", rule="mean", k=9, beta=0.5, dose=0.37
    )


def _norm(preset: LoadedPreset, layer: int) -> float:
    return preset.preset.placements["post"].table(layer).residual_norm


def _subject(preset: LoadedPreset, **more: Any) -> Subject:
    (asked,) = instructions("question")
    return Subject(preset=preset, instruction=asked, placement="post", **more)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))


def test_the_choice_steers_as_the_panel_does_at_strength_one(chosen: LoadedPreset) -> None:
    choice = chosen.preset.placements["post"].choice
    scored = chosen.assemble("post", choice)
    shown = chosen.steering("post")
    assert scored.span == shown.span
    assert scored.dose == shown.dose == {1: 0.37}
    assert torch.equal(scored.directions[1], shown.directions[1])


@pytest.mark.parametrize("latents", [None, LatentSource(selection="signed", rule="delta", k=5)])
def test_a_direction_is_as_long_as_its_dose(
    preset: LoadedPreset, latents: LatentSource | None
) -> None:
    steering = preset.assemble("post", SteeringSpec(layer=3, dose=0.4, latents=latents))
    assert list(steering.directions) == [3]
    assert steering.span == "response"
    assert float(steering.directions[3].norm()) == pytest.approx(0.4 * _norm(preset, 3), rel=1e-4)


def test_no_latents_means_the_mean_difference(preset: LoadedPreset) -> None:
    preset.vectors[1].mean_difference["post"].fill_(1.0)
    steering = preset.assemble("pre", SteeringSpec(layer=1, dose=0.4))
    difference = preset.vectors[1].mean_difference["pre"]
    assert _cosine(steering.directions[1], difference) == pytest.approx(1)


def test_random_latents_are_as_many_and_as_strong_as_the_chosen_ones(
    chosen: LoadedPreset,
) -> None:
    sae = planted_sae(1)
    asked: list[int] = []

    class Spied(Sae):
        def decoder(self, ids: object) -> Tensor:
            asked.extend(torch.as_tensor(ids).tolist())
            return super().decoder(ids)  # type: ignore[arg-type]

    layers: list[int] = []

    def load(layer: int) -> Sae:
        layers.append(layer)
        return Spied(sae.id, sae.sha256, sae.site, sae._sae)

    subject = _subject(chosen, load=load)
    steering = steering_of("random", subject)
    assert steering is not None
    own = chosen.assemble("post", chosen.preset.placements["post"].choice)
    assert layers == [1]
    assert len(set(asked)) == 9
    assert all(0 <= latent < D_SAE for latent in asked)
    assert steering.dose == own.dose
    assert float(steering.directions[1].norm()) == pytest.approx(
        float(own.directions[1].norm()), rel=1e-4
    )
    statistics = chosen.statistics("post", 1)
    top = statistics.take(rank(statistics, "contrast")[:9])
    expected = coefficients(top, "mean", 0.5) @ sae.decoder(asked)
    assert _cosine(steering.directions[1], expected) == pytest.approx(1, abs=1e-5)
    spec = chosen.preset.placements["post"].choice
    other = random_latents(_subject(chosen, load=lambda _: sae, seed=1), spec)
    assert _cosine(steering.directions[1], other.directions[1]) < 0.99


def test_single_latent_is_the_first_of_the_selection_with_its_sign(preset: LoadedPreset) -> None:
    statistics = preset.statistics("post", 1)
    statistics.delta[statistics.ids.tolist().index(FALLING)] = -50.0
    strongest = with_choice(preset, "post", layer=1, selection="signed", rule="delta", dose=0.3)
    part = strongest.preset.placements["post"]
    table = part.table(1)
    latents = [
        latent.model_copy(update={"delta": -50.0}) if latent.id == FALLING else latent
        for latent in table.latents
    ]
    part.layers[0] = table.model_copy(update={"latents": latents})
    steering = steering_of("single-latent", _subject(strongest))
    assert steering is not None
    row = planted_sae(1).decoder([FALLING])[0]
    assert _cosine(steering.directions[1], -row) == pytest.approx(1)
    assert steering.dose == {1: 0.3}


def test_plain_saif_is_fifteen_latents_of_the_last_layer_at_their_own_length(
    preset: LoadedPreset,
) -> None:
    chosen = with_choice(preset, "post", layer=1, selection="signed", rule="delta", k=4, dose=0.3)
    steering = chosen.assemble("post", plain_saif(chosen, "post"))
    statistics = chosen.statistics("post", 3)
    order = sorted(
        range(len(statistics.ids)),
        key=lambda i: (-float(statistics.sensitivity[i]), -float(statistics.delta[i])),
    )[:15]
    rows = planted_sae(3).decoder(statistics.ids[order])
    expected = statistics.mean[order] @ rows
    assert list(steering.directions) == [3]
    assert torch.allclose(steering.directions[3], expected, rtol=1e-3, atol=1e-4)
    assert steering.dose[3] == pytest.approx(float(expected.norm()) / _norm(chosen, 3), rel=1e-4)


# Conditions


def test_only_what_steers_has_a_spec_and_a_steering(chosen: LoadedPreset) -> None:
    subject = _subject(_calibrated(chosen), other=chosen, load=planted_sae)
    plain = {"unsteered", "prompted", "prompted-suffix"}
    for condition in ALL_CONDITIONS:
        assert (spec_for(condition, subject) is None) == (condition in plain)
        assert (steering_of(condition, subject) is None) == (condition in plain)


def _calibrated(preset: LoadedPreset) -> LoadedPreset:
    baseline = SteeringSpec(layer=3, dose=0.7, schedule=Schedule(half_life=9, keep_norm=True))
    return preset.with_part("post", mean_difference=baseline)


def test_mean_difference_steers_at_its_own_best_setting(chosen: LoadedPreset) -> None:
    subject = _subject(_calibrated(chosen))
    steering = steering_of("mean-difference", subject)
    assert steering is not None
    assert steering.dose == {3: 0.7}
    assert steering.schedule == Schedule(half_life=9, keep_norm=True)
    difference = chosen.vectors[3].mean_difference["post"]
    assert _cosine(steering.directions[3], difference) == pytest.approx(1)
    with pytest.raises(PresetError, match="not calibrated"):
        steering_of("mean-difference", _subject(chosen))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("unsteered", "The sea."),
        ("steered", "The sea."),
        ("wrong-instruction", "The sea."),
        ("steered-suffix", f"The sea.\n{NEUTRAL_SUFFIX}"),
    ],
)
def test_what_is_steered_never_carries_the_instruction(
    chosen: LoadedPreset, condition: Condition, expected: str
) -> None:
    assert message_for(condition, _subject(chosen), "The sea.") == expected


def test_what_is_prompted_carries_the_main_wording_where_the_placement_says(
    chosen: LoadedPreset,
) -> None:
    subject = _subject(chosen)
    wording = subject.instruction.main_wording
    assert message_for("prompted", subject, "The sea.") == f"The sea.\n{wording}"
    before = replace(subject, placement="pre")
    assert message_for("prompted", before, "The sea.") == f"{wording}\nThe sea."
    suffixed = f"{place(wording, 'The sea.', 'pre')}\n{NEUTRAL_SUFFIX}"
    assert message_for("prompted-suffix", before, "The sea.") == suffixed


def test_the_wrong_instruction_steers_with_the_other_preset(chosen: LoadedPreset) -> None:
    wrong = with_choice(chosen, "post", layer=3, dose=0.9)
    steering = steering_of("wrong-instruction", _subject(chosen, other=wrong))
    assert steering is not None
    assert steering.dose == {3: 0.9}
    with pytest.raises(InputError, match="no other preset"):
        steering_of("wrong-instruction", _subject(chosen))


# Schedules


def test_a_choice_s_schedule_and_layers_reach_the_engine(chosen: LoadedPreset) -> None:
    shaped = with_choice(chosen, "post", also=[3], half_life=7, keep_norm=True, clamp=True, k=4)
    for steering in (
        steering_of("steered", _subject(shaped)),
        shaped.steering("post"),
    ):
        assert steering is not None
        assert steering.dose == {1: pytest.approx(0.185), 3: pytest.approx(0.185)}
        assert steering.schedule == Schedule(half_life=7, keep_norm=True, clamp=True)
        assert set(steering.clamped) == {1, 3}
        assert steering.clamped[1].decoder.shape[0] == 4
    random = steering_of("random", _subject(shaped, load=planted_sae))
    assert random is not None
    assert random.schedule == Schedule(half_life=7, keep_norm=True)
    assert random.clamped == {}


def test_clamped_latents_are_the_ones_that_steer(chosen: LoadedPreset) -> None:
    clamped = with_choice(chosen, "post", clamp=True, k=3)
    steering = steering_of("steered", _subject(clamped))
    assert steering is not None
    reader = steering.clamped[1]
    statistics = chosen.statistics("post", 1)
    top = rank(statistics, "contrast")[:3]
    ids = statistics.ids[top].tolist()
    assert torch.allclose(reader.decoder, planted_sae(1).decoder(ids), atol=1e-3)
    resid = 3 * torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    expected = planted_sae(1).encode(resid)[:, ids] @ planted_sae(1).decoder(ids)
    assert torch.allclose(reader.contribution(resid), expected, atol=0.05)
    assert float(expected.abs().max()) > 1


def test_half_a_strength_takes_only_half_of_a_clamped_latent_away(chosen: LoadedPreset) -> None:
    clamped = with_choice(chosen, "post", clamp=True, k=3)
    full, half, double = (
        clamped.steering("post", strength=strength) for strength in (1.0, 0.5, 2.0)
    )
    assert torch.allclose(half.clamped[1].decoder, full.clamped[1].decoder / 2)
    assert torch.equal(double.clamped[1].decoder, full.clamped[1].decoder)
    assert torch.allclose(double.directions[1], 2 * full.directions[1])


def test_a_layer_chosen_by_hand_is_steered_alone(chosen: LoadedPreset) -> None:
    several = with_choice(chosen, "post", also=[3])
    steering = several.steering("post", layer=3)
    assert steering.dose == {3: 0.37}
    assert steering.layers == (3,)
    assert several.steering("post").layers == several.steering("post", layer=1).layers == (1, 3)


def test_plain_saif_without_a_direction_is_refused(preset: LoadedPreset) -> None:
    table = preset.preset.placements["post"].table(3)
    table.latents[:] = [latent.model_copy(update={"mean": 0.0}) for latent in table.latents]
    with pytest.raises(PresetError, match="no direction at layer 3"):
        plain_saif(preset, "post")
