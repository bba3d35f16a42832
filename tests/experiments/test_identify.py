from dataclasses import replace
from typing import Any

import pytest
import torch
from made_up import (
    ANY,
    CONTENT,
    D_SAE,
    EVERY,
    FALL,
    FALLING,
    OTHER,
    RISE,
    RISING,
    axis,
    instructions,
    planted_readings,
    planted_sae,
    sentences,
)
from tiny import D_MODEL

from saif.core.selection import LatentStatistics, rank
from saif.core.types import PLACEMENTS, Site
from saif.engine.local import LocalEngine
from saif.errors import SaeError
from saif.experiments.identify import Activations, build_presets, last_residuals, read_activations
from saif.presets.preset import LoadedPreset
from saif.presets.spec import MAX_STORED_LATENTS
from saif.runtime.language_model import LanguageModel
from saif.runtime.sae import Sae


def _ranked(preset: LoadedPreset, selection: Any) -> tuple[LatentStatistics, list[int]]:
    statistics = preset.statistics("post", 1)
    return statistics, statistics.ids[rank(statistics, selection)].tolist()


def _of(statistics: LatentStatistics, latent: int, name: str) -> float:
    return float(getattr(statistics, name)[statistics.ids.tolist().index(latent)])


# Reading prompts


def test_the_last_prompt_token_is_read_in_the_order_of_the_texts(model: LanguageModel) -> None:
    texts = ["a long text comes first", "b", "one in between"]
    found = last_residuals(model, texts, [0, 3])
    for i, text in enumerate(texts):
        ids = model.render([{"role": "user", "content": text}])
        alone, _ = model.residuals([ids], [0, 3])
        for layer in (0, 3):
            assert torch.allclose(found[layer][i], alone[layer][0, -1], atol=1e-4)


def test_every_content_is_read_alone_and_with_one_wording_in_both_placements(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = instructions("question", "summarise")
    contents: Any = {"sentence": sentences()[:6], "passage": ["p one. two", "p three"]}
    rendered: list[str] = []
    real = model.render

    def render(messages: Any) -> list[int]:
        rendered.append(messages[0]["content"])
        return real(messages)

    monkeypatch.setattr(model, "render", render)
    readings = read_activations(model, asked, contents, [2])
    monkeypatch.undo()
    assert readings.kinds == {"question": "sentence", "summarise": "passage"}
    for instruction in asked:
        texts = contents[instruction.contents]
        wordings = {wording.text for wording in instruction.wordings}
        drawn = set()
        for i, text in enumerate(texts):
            (pre,) = [m for m in rendered if m.endswith(f"\n{text}")]
            (post,) = [m for m in rendered if m.startswith(f"{text}\n")]
            wording = pre.removesuffix(f"\n{text}")
            assert post == f"{text}\n{wording}"
            assert wording in wordings
            drawn.add(wording)
            for placement, message in (("pre", pre), ("post", post)):
                alone = last_residuals(model, [message], [2])[2][0]
                read = readings.instructed[instruction.id, placement][2][i]
                assert torch.allclose(read, alone, atol=1e-4)
            plain = last_residuals(model, [text], [2])[2][0]
            assert torch.allclose(readings.plain[instruction.contents][2][i], plain, atol=1e-4)
        assert len(drawn) > 1


# Planted latents


def test_the_papers_selection_finds_what_rises_and_falls_for_any_instruction(
    preset: LoadedPreset,
) -> None:
    statistics, ids = _ranked(preset, "saif")
    assert ids[:2] == [ANY, RISING]
    assert _of(statistics, RISING, "sensitivity") == 1
    assert _of(statistics, RISING, "delta") == pytest.approx(RISE)


def test_contrast_drops_what_answers_to_every_instruction(preset: LoadedPreset) -> None:
    statistics, ids = _ranked(preset, "contrast")
    assert ids[0] == RISING
    assert ANY not in ids[:15]
    assert _of(statistics, ANY, "sensitivity") == _of(statistics, ANY, "other_sensitivity") == 1


def test_signed_finds_the_falling_latent_with_its_sign(preset: LoadedPreset) -> None:
    statistics, ids = _ranked(preset, "signed")
    assert ids[:3] == [ANY, FALLING, RISING]
    assert _of(statistics, FALLING, "delta") == pytest.approx(-FALL)
    assert _of(statistics, FALLING, "sensitivity") == 0


def test_the_control_takes_the_other_instructions_in_turn_on_the_same_content(
    engine: LocalEngine,
) -> None:
    layers = (1,)
    sae = planted_sae(1)
    sae._sae.W_enc[:, max(CONTENT) + 1 :] = 0  # nothing else fires: all that is left is stored
    (preset,) = build_presets(
        engine, instructions("question"), planted_readings(layers), lambda _: sae, layers
    )
    latents = {latent.id: latent for latent in preset.preset.placements["post"].table(1).latents}
    assert latents[OTHER].other_sensitivity == 0.5  # one of two other instructions raises it
    assert {latents[latent].other_sensitivity for latent in CONTENT} == {0}
    assert {latents[latent].delta for latent in CONTENT} == {0}
    assert latents[FALLING].other_sensitivity == 0


def test_the_control_stands_where_the_instruction_does(engine: LocalEngine) -> None:
    readings = planted_readings()
    plain = readings.plain["sentence"]
    readings.instructed["bullet-list", "post"] = readings.instructed["verse", "post"] = plain
    (preset,) = build_presets(engine, instructions("question"), readings, planted_sae, [1])
    for placement, expected in (("pre", 1), ("post", 0)):
        assert _of(preset.statistics(placement, 1), ANY, "other_sensitivity") == expected


def test_with_no_other_instruction_for_these_texts_contrast_is_nil(engine: LocalEngine) -> None:
    readings = planted_readings()
    alone = Activations(
        readings.kinds | {"bullet-list": "passage", "verse": "passage"},
        readings.plain,
        readings.instructed,
    )
    (preset,) = build_presets(engine, instructions("question"), alone, planted_sae, [1])
    for latent in preset.preset.placements["pre"].table(1).latents:
        assert latent.sensitivity == latent.other_sensitivity


def test_mean_difference_and_residual_norm_are_those_of_the_readings(
    preset: LoadedPreset,
) -> None:
    planted = RISE * axis(RISING) - FALL * axis(FALLING) + EVERY * axis(ANY)
    norm = float(planted_readings().plain["sentence"][1].norm(dim=1).mean())
    for placement in PLACEMENTS:
        part = preset.preset.placements[placement]
        for layer in (1, 3):
            found = preset.vectors[layer].mean_difference[placement]
            assert torch.allclose(found, planted, atol=1e-5)
            assert part.table(layer).residual_norm == pytest.approx(norm, rel=1e-4)


def test_placements_and_layers_are_kept_apart(engine: LocalEngine) -> None:
    readings = planted_readings()
    post = readings.instructed["question", "post"]
    plain = readings.plain["sentence"]
    readings.instructed["question", "post"] = {1: plain[1], 3: post[3]}  # nothing at layer 1
    (preset,) = build_presets(engine, instructions("question"), readings, planted_sae, [1, 3])
    for placement, layer, delta in (("pre", 1, RISE), ("post", 1, None), ("post", 3, RISE)):
        statistics = preset.statistics(placement, layer)
        if delta is None:
            assert not statistics.delta.any()
            assert not preset.vectors[layer].mean_difference[placement].any()
        else:
            assert _of(statistics, RISING, "delta") == pytest.approx(delta)


def test_stored_vectors_are_the_rows_of_the_stored_latents(preset: LoadedPreset) -> None:
    sae = planted_sae(3)
    vectors = preset.vectors[3]
    encoder, bias, threshold = sae.encoder(vectors.ids)
    assert torch.equal(vectors.decoder, sae.decoder(vectors.ids))
    assert torch.equal(vectors.encoder, encoder)
    assert torch.equal(vectors.bias, bias)
    assert torch.equal(vectors.threshold, threshold)
    stored = [latent.id for latent in preset.preset.placements["pre"].table(3).latents]
    assert set(stored) <= set(vectors.ids)
    assert MAX_STORED_LATENTS <= len(stored) < D_SAE


def test_what_is_stored_ranks_as_all_latents_do(
    engine: LocalEngine, preset: LoadedPreset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saif.experiments.identify.MAX_STORED_LATENTS", D_SAE)
    (everything,) = build_presets(
        engine, instructions("question"), planted_readings(), planted_sae, [1]
    )
    for selection in ("saif", "contrast", "signed"):
        _, few = _ranked(preset, selection)
        _, every = _ranked(everything, selection)
        assert few[:MAX_STORED_LATENTS] == every[:MAX_STORED_LATENTS]


@pytest.mark.parametrize("fault", ["layer", "width"])
def test_an_sae_of_another_layer_or_width_is_refused(engine: LocalEngine, fault: str) -> None:
    def load(layer: int) -> Sae:
        if fault == "layer":
            return replace(planted_sae(layer), site=Site(layer + 1))
        return planted_sae(layer, D_MODEL + 8)

    with pytest.raises(SaeError, match="not layer 1 with width 32"):
        build_presets(engine, instructions("question"), planted_readings(), load, [1])
