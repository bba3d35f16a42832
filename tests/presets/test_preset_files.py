"""Preset files: what is written is read back, and whatever is damaged is refused by name."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_preset

from saif.errors import PresetError
from saif.presets.library import read_card, read_preset, write_preset
from saif.presets.preset import LoadedPreset

NAME = "translate-french"


@pytest.fixture(scope="module")
def preset() -> LoadedPreset:
    return tiny_preset(tiny_model(), NAME)


@pytest.fixture
def path(tmp_path: Path, preset: LoadedPreset) -> Path:
    return write_preset(tmp_path, preset)


def refusal(path: Path) -> str:
    """The one line that refuses to read `path`."""
    with pytest.raises(PresetError) as refused:
        read_preset(path)
    assert "\n" not in refused.value.sentence
    return str(refused.value)


def test_a_preset_survives_being_written_and_read(path: Path, preset: LoadedPreset) -> None:
    again = read_preset(path)
    assert again.preset == preset.preset
    assert again.vectors.keys() == preset.vectors.keys()
    for layer, vectors in preset.vectors.items():
        read = again.vectors[layer]
        assert read.ids == vectors.ids
        for name in ("decoder", "encoder", "bias", "threshold"):
            torch.testing.assert_close(
                getattr(read, name).float(), getattr(vectors, name), atol=1e-3, rtol=1e-3
            )
        for placement, vector in vectors.mean_difference.items():
            assert torch.equal(read.mean_difference[placement], vector)


def test_writing_twice_gives_the_same_bytes(path: Path, preset: LoadedPreset) -> None:
    files = [path, path.with_suffix(".safetensors")]
    before = [file.read_bytes() for file in files]
    write_preset(path.parent, read_preset(path))
    assert [file.read_bytes() for file in files] == before


def test_the_card_alone_is_read_without_the_vectors(path: Path, preset: LoadedPreset) -> None:
    path.with_suffix(".safetensors").unlink()
    assert read_card(path) == preset.preset


# Damage to the card. Every entry: where, what, and what the refusal says.


def _without_latents(card: dict[str, Any]) -> None:
    for name in ("selection", "rule", "k", "beta"):
        del _choice(card)[name]


def _latents_twice(card: dict[str, Any]) -> None:
    card["placements"]["pre"]["mean_difference"] = dict(_choice(card))


def _clamped_mean_difference(card: dict[str, Any]) -> None:
    card["placements"]["pre"]["mean_difference"] = {"layer": 1, "dose": 0.5, "clamp": True}


def _mean_difference_elsewhere(card: dict[str, Any]) -> None:
    card["placements"]["pre"]["mean_difference"] = {"layer": 2, "dose": 0.5}


DAMAGED_CARDS: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("unknown key", lambda c: c.update(colour="red"), "colour: Extra inputs"),
    (
        "unknown key deep down",
        lambda c: c["placements"]["pre"]["choice"].update(power=2),
        "placements.pre.choice.power: ",
    ),
    ("missing key", lambda c: c.pop("title"), "title: Field required"),
    (
        "missing placement",
        lambda c: c["placements"].pop("post"),
        "placements: both 'pre' and 'post'",
    ),
    (
        "unknown placement",
        lambda c: c["placements"].update(mid=c["placements"]["pre"]),
        "placements.mid",
    ),
    ("text for a number", lambda c: c["model"].update(d_model="32"), "model.d_model"),
    ("number for a text", lambda c: c.update(title=7), "title"),
    ("fraction for a whole", lambda c: c["model"].update(n_layers=4.5), "model.n_layers"),
    ("true for a number", lambda c: c["model"].update(n_layers=True), "model.n_layers"),
    ("newer schema", lambda c: c.update(schema_version=2), "schema_version"),
    ("no schema", lambda c: c.pop("schema_version"), "schema_version"),
    ("NaN", lambda c: _latent(c).update(mean=math.nan), "latents.0.mean"),
    ("infinity", lambda c: _latent(c).update(delta=math.inf), "latents.0.delta"),
    ("share over one", lambda c: _latent(c).update(sensitivity=1.5), "latents.0.sensitivity"),
    ("negative id", lambda c: _latent(c).update(id=-1), "latents.0.id"),
    ("latent twice", lambda c: _latent(c).update(id=11), "lists a latent twice"),
    ("no latents", lambda c: _table(c).update(latents=[]), "latents"),
    ("zero norm", lambda c: _table(c).update(residual_norm=0), "residual_norm"),
    ("k of zero", lambda c: _choice(c).update(k=0), "choice.k"),
    ("k over the limit", lambda c: _choice(c).update(k=65), "choice.k"),
    ("k over what is stored", lambda c: _choice(c).update(k=9), "choice.k: is 9, but 8"),
    ("dose of zero", lambda c: _choice(c).update(dose=0.0), "choice.dose"),
    ("beta out of range", lambda c: _choice(c).update(beta=1.5), "choice.beta"),
    ("unknown selection", lambda c: _choice(c).update(selection="best"), "choice.selection"),
    ("unknown rule", lambda c: _choice(c).update(rule="max"), "choice.rule"),
    ("unknown span", lambda c: _choice(c).update(span="reply"), "choice.span"),
    ("nested", lambda c: _choice(c).update(latents=None), "latents: is not a key"),
    ("no latents chosen", _without_latents, "choice.selection: is missing"),
    ("half of a source", lambda c: _choice(c).pop("k"), "choice.k: Field required"),
    ("layer chosen twice", lambda c: _choice(c).update(also=[1]), "also: a layer is listed twice"),
    ("half-life of zero", lambda c: _choice(c).update(half_life=0), "choice.half_life"),
    ("number for a yes", lambda c: _choice(c).update(clamp=1), "choice.clamp"),
    ("text for layers", lambda c: _choice(c).update(also="3"), "choice.extra_layers"),
    ("latents of a mean difference", _latents_twice, "mean_difference.selection: a mean diff"),
    ("clamped mean difference", _clamped_mean_difference, "clamp: only latents"),
    ("mean difference elsewhere", _mean_difference_elsewhere, "mean_difference.layer: nothing"),
    ("layer without latents", lambda c: _choice(c).update(layer=2), "choice.layer"),
    ("layer beyond the model", lambda c: c["model"].update(n_layers=3), "the model has fewer"),
    ("negative layer", lambda c: _table(c).update(layer=-1), "layers.0.layer"),
    ("layer twice", lambda c: _table(c).update(layer=3), "choice.layer|listed twice"),
    (
        "layer listed twice",
        lambda c: c["placements"]["pre"]["layers"].append(_table(c)),
        "listed twice",
    ),
    (
        "more successes than trials",
        lambda c: c["placements"]["pre"].update(scores=_scores(successes=9, n=8)),
        "successes: 9 of 8",
    ),
    ("id of another file", lambda c: c.update(id="question"), "id: is 'question'"),
    ("path in the id", lambda c: c.update(id="../question"), "id: is '../question'"),
]


def _table(card: dict[str, Any]) -> dict[str, Any]:
    return card["placements"]["pre"]["layers"][0]


def _latent(card: dict[str, Any]) -> dict[str, Any]:
    return _table(card)["latents"][0]


def _choice(card: dict[str, Any]) -> dict[str, Any]:
    return card["placements"]["pre"]["choice"]


def _scores(successes: int, n: int) -> dict[str, Any]:
    interval = {"successes": successes, "n": n, "low": 0.1, "high": 0.9}
    condition = {
        "condition": "steered",
        "layer": 1,
        "loose": interval,
        "strict": interval,
        "degenerate": interval,
        "perplexity": None,
        "dose": 0.5,
    }
    return {
        "split": "held-out",
        "n": n,
        "max_new_tokens": 40,
        "perplexity_bound": 50.0,
        "command": "none",
        "conditions": [condition],
    }


@pytest.mark.parametrize(
    ("damage", "reason"), [c[1:] for c in DAMAGED_CARDS], ids=[c[0] for c in DAMAGED_CARDS]
)
def test_a_damaged_card_is_refused_by_field(
    path: Path, damage: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    card = json.loads(path.read_text("utf-8"))
    damage(card)
    path.write_text(json.dumps(card), "utf-8")
    message = refusal(path)
    assert path.name in message
    assert any(part in message for part in reason.split("|")), message


def test_scores_are_read_back(path: Path) -> None:
    card = json.loads(path.read_text("utf-8"))
    card["placements"]["pre"]["scores"] = _scores(successes=6, n=8)
    path.write_text(json.dumps(card), "utf-8")
    scores = read_card(path).placements["pre"].scores
    assert scores is not None
    assert scores.condition("steered").loose.value == 0.75
    assert scores.condition("prompted") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"{" * 5000, b'{"id": "translate-french"'],
    ids=["empty", "cut off", "list", "null", "binary", "nested", "half"],
)
def test_a_broken_json_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "translate-french.json is not a valid preset" in refusal(path)


def test_a_missing_card_is_refused(tmp_path: Path) -> None:
    assert "nowhere.json can't be read" in refusal(tmp_path / "nowhere.json")


@pytest.mark.parametrize("name", ["..", "Upper", "a b", "a..b", ".hidden", "a/../b"])
def test_a_name_that_could_lead_elsewhere_is_refused(
    tmp_path: Path, preset: LoadedPreset, name: str
) -> None:
    card = preset.preset.model_copy(update={"id": name})
    with pytest.raises(PresetError, match="not a valid name"):
        write_preset(tmp_path, replace(preset, preset=card))
    assert list(tmp_path.iterdir()) == []


# Damage to the vectors.

DAMAGED_VECTORS: list[tuple[str, Callable[[dict[str, torch.Tensor]], Any], str]] = [
    ("missing", lambda t: t.pop("1.decoder"), "1.decoder: is missing"),
    ("missing ids", lambda t: t.pop("3.ids"), "3.ids: is missing"),
    (
        "missing mean difference",
        lambda t: t.pop("1.mean_difference.pre"),
        "1.mean_difference.pre: is missing",
    ),
    ("unknown", lambda t: t.update(extra=torch.ones(1)), "extra: is unknown"),
    ("unknown layer", lambda t: t.update({"2.ids": t["1.ids"].clone()}), "2.ids: is unknown"),
    ("too wide", lambda t: t.update({"1.decoder": torch.ones(8, 33)}), "1.decoder: has shape"),
    ("too few rows", lambda t: t.update({"1.encoder": torch.ones(7, 32)}), "1.encoder: has shape"),
    ("NaN", lambda t: t["3.decoder"].__setitem__((0, 0), math.nan), "3.decoder: holds NaN"),
    ("infinity", lambda t: t["1.bias"].__setitem__(0, math.inf), "1.bias: holds NaN or infinite"),
    (
        "NaN in the mean difference",
        lambda t: t["1.mean_difference.post"].__setitem__(0, math.nan),
        "1.mean_difference.post: holds NaN",
    ),
    ("fractional ids", lambda t: t.update({"1.ids": t["1.ids"].float()}), "1.ids: holds torch.f"),
    (
        "whole-number rows",
        lambda t: t.update({"1.decoder": torch.ones(8, 32, dtype=torch.int64)}),
        "1.decoder: holds torch.int64",
    ),
    ("ids without a shape", lambda t: t.update({"1.ids": torch.tensor(5)}), "1.ids: has shape"),
    ("latent twice", lambda t: t["1.ids"].__setitem__(0, 11), "1.ids: holds a latent twice"),
    ("latent lacking", lambda t: t["1.ids"].__setitem__(0, 99), "1.ids: lacks latent 10"),
]


@pytest.mark.parametrize(
    ("damage", "reason"), [d[1:] for d in DAMAGED_VECTORS], ids=[d[0] for d in DAMAGED_VECTORS]
)
def test_damaged_vectors_are_refused_by_tensor(
    path: Path, damage: Callable[[dict[str, torch.Tensor]], Any], reason: str
) -> None:
    file = path.with_suffix(".safetensors")
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    message = refusal(path)
    assert f"{file.name}: {reason}" in message, message


def test_missing_vectors_are_refused(path: Path) -> None:
    path.with_suffix(".safetensors").unlink()
    assert f"vectors of the preset '{NAME}' can't be read" in refusal(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_vectors_are_refused(path: Path, keep: int) -> None:
    file = path.with_suffix(".safetensors")
    file.write_bytes(file.read_bytes()[:keep])
    assert "can't be read" in refusal(path)


def test_a_pickle_is_not_read(path: Path) -> None:
    torch.save(load_file(path.with_suffix(".safetensors")), path.with_suffix(".safetensors"))
    assert "can't be read" in refusal(path)


# Writing


def test_a_failure_while_writing_leaves_the_old_files(
    path: Path, preset: LoadedPreset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    changed = replace(preset, preset=preset.preset.model_copy(update={"title": "Other"}))
    for name in ("fdopen", "replace"):
        with monkeypatch.context() as broken:
            broken.setattr(os, name, full)
            broken.setattr(Path, "replace", full)
            with pytest.raises(OSError, match="No space left"):
                write_preset(path.parent, changed)
        assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_preset_that_could_not_be_read_back_is_not_written(
    tmp_path: Path, preset: LoadedPreset
) -> None:
    vectors = {
        layer: replace(v, decoder=v.decoder * 1e6)  # beyond float16
        for layer, v in preset.vectors.items()
    }
    with pytest.raises(ValueError, match=r"1\.decoder: holds NaN or infinite"):
        write_preset(tmp_path / "new", replace(preset, vectors=vectors))
    assert not (tmp_path / "new").exists()
