"""What is said of known models is true: of their SAEs in sae-lens' registry, of their sizes."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from saif.presets.library import SHIPPED, Library
from saif.runtime.catalog import MODELS, KnownModel, Size, known

PUBLISHED = [model for model in MODELS if any(saes.release for saes in model.saes)]


@pytest.fixture(scope="module")
def releases() -> dict[str, Any]:
    """sae-lens' registry, read without importing sae-lens."""
    spec = importlib.util.find_spec("sae_lens")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "pretrained_saes.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with path.open() as file:
        return yaml.load(file, Loader=loader)  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_every_sae_is_in_sae_lens_registry(model: KnownModel, releases: dict[str, Any]) -> None:
    for saes in model.saes:
        there = {sae["id"] for sae in releases[saes.release]["saes"]}
        assert {saes.ids.format(layer=layer) for layer in saes.layers} <= there
        # Every layer is named that has an SAE of this width.
        pattern = re.escape(saes.ids).replace(r"\{layer\}", r"(\d+)")
        found = {int(m[1]) for name in there if (m := re.fullmatch(pattern, name))}
        assert found == set(saes.layers)


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_the_saes_belong_to_the_model(model: KnownModel, releases: dict[str, Any]) -> None:
    for saes in model.saes:
        of = releases[saes.release]["model"].lower().rpartition("/")[2]
        own = {model.id.lower().rpartition("/")[2], model.name}
        base = {name.removesuffix("-it").removesuffix("-instruct") for name in own}
        assert of in (base if saes.base else own)


def test_the_embedded_model_s_saes_ship() -> None:
    model = MODELS[0]
    folder = Library(SHIPPED).model_folder(model.id) / "sae"
    assert tuple(sorted(int(path.name) for path in folder.iterdir())) == model.saes[0].layers
    assert model.default_saes() == []


def test_layers_lie_inside_the_model_and_defaults_are_among_them() -> None:
    for model in MODELS:
        for saes in model.saes:
            assert set(saes.layers) <= set(range(model.n_layers))
        assert set(model.default_layers()) <= set(model.saes[0].layers)
        if model.n_layers - 1 in model.saes[0].layers:
            assert model.default_layers()[-1] == model.n_layers - 1


def test_default_saes_are_where_instructions_are_found() -> None:
    gemma = known("gemma-2-2b")
    assert gemma is not None
    assert gemma.default_layers() == [12, 15, 20, 25]
    first = "gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical"
    assert gemma.default_saes()[0] == first


def test_a_model_is_known_by_name_and_id_in_any_case() -> None:
    assert known("Gemma-2-2B") is known("google/gemma-2-2b") is not None
    assert known("google/gemma-9000") is None
    assert len({model.name for model in MODELS}) == len({model.id for model in MODELS})


def test_quantizing_leaves_the_embedding_alone() -> None:
    size = Size(linear=1_000_000, other=500_000)
    assert size.bytes("none") == 3_000_000
    assert size.bytes("none", 4) == 6_000_000
    assert size.bytes("int8") == 2_000_000
    assert size.bytes("4bit") == pytest.approx(1_516_000)


def test_models_without_an_sae_at_the_last_layer_are_told() -> None:
    without = {model.name for model in MODELS if not model.last_layer_has_sae}
    assert without == {"llama-3.1-8b-instruct"}
