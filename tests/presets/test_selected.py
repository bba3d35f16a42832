"""What a loaded preset selects: the same latents, rows and coefficients for whoever asks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_up import with_choice
from tiny import tiny_model, tiny_preset

from saif.chat import Comparison, Turn, take_turn
from saif.core import selection
from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.presets.controls import Controls
from saif.presets.library import Library
from saif.presets.preset import LayerTable, LoadedPreset
from saif.presets.spec import LatentSource, SteeringSpec

SIGNED = LatentSource(selection="signed", rule="delta", k=2)


@pytest.fixture
def preset() -> LoadedPreset:
    return tiny_preset(tiny_model())


def with_table(
    preset: LoadedPreset, change: Callable[[LayerTable], dict[str, Any]]
) -> LoadedPreset:
    """The preset with another table of latents for layer 1 after the content."""
    part = preset.preset.placements["post"]
    table = part.table(1)
    table = table.model_copy(update=change(table))
    return preset.with_part("post", layers=[table, part.table(3)])


def test_the_direction_is_the_sum_of_the_best_rows_times_their_coefficients(
    preset: LoadedPreset,
) -> None:
    deltas = [1.0, -5.0, 3.0]

    def three(table: LayerTable) -> dict[str, Any]:
        values = zip(table.latents, deltas, [0.0, 1.0, 2.0], strict=False)
        return {
            "latents": [
                latent.model_copy(update={"delta": delta, "delta_std": std, "mean": 7.0})
                for latent, delta, std in values
            ]
        }

    made = with_table(preset, three)
    rows = torch.zeros(8, 32)
    rows[:3, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [10.0, 10.0]])
    made.vectors[1].decoder[:] = rows

    def found(k: int, beta: float = 0.0) -> list[float]:
        direction = made.select("post", 1, replace(SIGNED, k=k, beta=beta)).direction
        assert not direction[2:].any()
        return direction[:2].tolist()

    assert found(1) == [0, -5]
    assert found(2) == [30, 25]
    assert found(3) == [31, 25]
    assert found(9) == [31, 25]  # there are only three
    assert found(2, beta=1.0) == [50, 44]


def test_rows_and_coefficients_follow_the_latents_in_whatever_order_they_are_stored(
    preset: LoadedPreset,
) -> None:
    """The tensors of a layer serve both placements, whose latents may be ordered otherwise."""
    source = replace(SIGNED, k=5)
    turned = with_table(preset, lambda table: {"latents": table.latents[::-1]})
    assert turned.statistics("post", 1).ids.tolist() == [17, 16, 15, 14, 13, 12, 11, 10]
    one, other = preset.select("post", 1, source), turned.select("post", 1, source)
    assert one.ids == other.ids == (10, 11, 12, 13, 14)
    assert one.coefficients.tolist() == other.coefficients.tolist() == [-8, 7, -6, 5, -4]
    for name in ("encoder", "bias", "threshold", "decoder"):
        stored = getattr(preset.vectors[1], name)[:5]
        assert torch.equal(getattr(one.encoder, name), stored)
        assert torch.equal(getattr(other.encoder, name), stored)
    assert torch.equal(one.direction, other.direction)


def test_a_card_alone_tells_which_latents_steer(preset: LoadedPreset) -> None:
    card = LoadedPreset(preset.preset).select("post", 1, SIGNED)
    assert (card.ids, card.coefficients.tolist()) == ((10, 11), [-8, 7])
    assert [latent.words for latent in card.latents] == [
        [" word0", " other0"],
        [" word1", " other1"],
    ]


def test_placement_layer_and_source_all_matter(preset: LoadedPreset) -> None:
    for other in (
        preset.select("pre", 1, SIGNED),
        preset.select("post", 3, SIGNED),
        preset.select("post", 1, replace(SIGNED, k=3)),
        preset.select("post", 1, replace(SIGNED, beta=1.0)),
    ):
        assert not torch.equal(other.direction, preset.select("post", 1, SIGNED).direction)


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every ranking of a layer's latents."""
    calls: list[int] = []
    rank = selection.rank
    monkeypatch.setattr(selection, "rank", lambda *given: calls.append(1) or rank(*given))
    return calls


def test_a_preset_is_resolved_once_per_message(ranked: list[int]) -> None:
    """By the refusal beforehand, the directions, the clamps and the table together: one ranking
    for each of two layers, and none at all for the next message."""
    engine = LocalEngine(tiny_model())
    preset = with_choice(tiny_preset(engine.language_model), "post", also=[3], clamp=True)
    controls = Controls(k=3, strength=0.5)
    turn = Turn(
        text="hi",
        preset=preset,
        instruction=Library().instruction("translate-french"),
        controls=controls,
        sampling=Sampling(max_new_tokens=2),
    )
    preset.steering_with(controls)
    *_, state = take_turn(engine, Comparison(), turn)
    source = replace(preset.preset.placements["post"].latents, k=3)
    shown = preset.select("post", 1, source)
    assert state.steering.latents[1] == shown.ids
    assert len(ranked) == 2
    list(take_turn(engine, Comparison(), replace(turn, controls=replace(controls, strength=2))))
    list(take_turn(engine, Comparison(), replace(turn, controls=replace(controls, strength=0))))
    assert len(ranked) == 2
    preset.steering(k=4)
    assert len(ranked) == 4


def test_a_changed_preset_selects_anew(preset: LoadedPreset) -> None:
    before = preset.select("post", 1, SIGNED)
    turned = with_table(preset, lambda table: {"latents": table.latents[4:]})
    assert turned.select("post", 1, SIGNED).ids != before.ids


def test_only_the_last_selections_are_kept(preset: LoadedPreset, ranked: list[int]) -> None:
    for k in range(1, 40):
        preset.select("post", 1, replace(SIGNED, k=k))
    assert len(ranked) == 39
    preset.select("post", 1, replace(SIGNED, k=39))
    assert len(ranked) == 39
    preset.select("post", 1, replace(SIGNED, k=1))
    assert len(ranked) == 40


def test_a_mean_difference_can_be_off_too(preset: LoadedPreset) -> None:
    off = preset.assemble("post", SteeringSpec(layer=3, dose=0.4), strength=0.0)
    assert (off.off, off.layers, off.latents, off.k) == (True, (3,), {}, 0)
