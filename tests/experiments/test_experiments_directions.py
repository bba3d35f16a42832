import pytest
import torch
from made_up import D_SAE, FALLING, planted_sae, with_choice
from torch import Tensor

from saif.core.selection import rank, strengths
from saif.experiments.directions import (
    LatentPush,
    Push,
    choice_push,
    plain_saif,
    random_latents,
    single_latent,
    steering_for,
)
from saif.presets.preset import LoadedPreset
from saif.presets.steer import Controls, steer
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


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))


def test_the_choice_steers_as_the_panel_does_at_strength_one(chosen: LoadedPreset) -> None:
    choice = chosen.preset.placements["post"].choice
    scored = steering_for(chosen, "post", choice_push(choice))
    shown, _ = steer(chosen, Controls(placement="post"))
    assert shown is not None
    assert scored.span == shown.span
    assert scored.dose == shown.dose == {1: 0.37}
    assert torch.equal(scored.directions[1], shown.directions[1])


@pytest.mark.parametrize("latents", [None, LatentPush(selection="signed", rule="delta", k=5)])
def test_a_push_is_as_long_as_its_dose(preset: LoadedPreset, latents: LatentPush | None) -> None:
    steering = steering_for(preset, "post", Push(layers=(3,), dose=0.4, latents=latents))
    assert list(steering.directions) == [3]
    assert steering.span == "response"
    assert float(steering.directions[3].norm()) == pytest.approx(0.4 * _norm(preset, 3), rel=1e-4)


def test_no_latents_means_the_mean_difference(preset: LoadedPreset) -> None:
    preset.vectors[1].mean_difference["post"].fill_(1.0)
    steering = steering_for(preset, "pre", Push(layers=(1,), dose=0.4, latents=None))
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

    steering = random_latents(chosen, "post", load)
    own = steering_for(chosen, "post", choice_push(chosen.preset.placements["post"].choice))
    assert layers == [1]
    assert len(set(asked)) == 9
    assert all(0 <= latent < D_SAE for latent in asked)
    assert steering.dose == own.dose
    assert float(steering.directions[1].norm()) == pytest.approx(
        float(own.directions[1].norm()), rel=1e-4
    )
    statistics = chosen.statistics("post", 1)
    top = statistics.take(rank(statistics, "contrast")[:9])
    expected = strengths(top, "mean", 0.5) @ sae.decoder(asked)
    assert _cosine(steering.directions[1], expected) == pytest.approx(1, abs=1e-5)
    other = random_latents(chosen, "post", lambda _: sae, seed=1)
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
    steering = single_latent(strongest, "post")
    row = planted_sae(1).decoder([FALLING])[0]
    assert _cosine(steering.directions[1], -row) == pytest.approx(1)
    assert steering.dose == {1: 0.3}


def test_plain_saif_is_fifteen_latents_of_the_last_layer_at_their_own_length(
    preset: LoadedPreset,
) -> None:
    chosen = with_choice(preset, "post", layer=1, selection="signed", rule="delta", k=4, dose=0.3)
    steering = plain_saif(chosen, "post")
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
