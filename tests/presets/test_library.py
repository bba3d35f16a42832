"""The folder of presets: what is there is listed, what isn't is named, nothing else is opened."""

from pathlib import Path

import pytest
from tiny import MODEL_ID

from saif.errors import PresetError
from saif.presets.library import Library, user_folder


def test_what_is_there_is_listed(library: Library) -> None:
    assert library.preset_ids(MODEL_ID) == ["question", "translate-french"]
    assert library.model_ids() == ["tiny-llama"]
    assert library.card(MODEL_ID, "question").id == "question"
    assert library.preset(MODEL_ID, "question").id == "question"
    assert [i.id for i in library.instructions()] == library.instruction_ids()


def test_a_preset_that_is_not_there_is_named_with_those_that_are(library: Library) -> None:
    with pytest.raises(PresetError, match="no preset 'verse' for tests/tiny-llama") as refused:
        library.preset(MODEL_ID, "verse")
    assert refused.value.hint == "Available: question, translate-french."
    with pytest.raises(PresetError) as refused:
        library.card("other/model", "question")
    assert refused.value.hint == "Available: none yet."


def test_an_instruction_that_is_not_there_is_named_with_those_that_are(library: Library) -> None:
    with pytest.raises(PresetError, match="no instruction 'dance'") as refused:
        library.instruction("dance")
    assert "translate-french" in refused.value.hint


@pytest.mark.parametrize("name", ["../question", "..", "/etc/passwd", "a/b", "A", "", "x" * 65])
def test_a_name_that_could_lead_elsewhere_is_refused(library: Library, name: str) -> None:
    for ask in (library.instruction, lambda n: library.preset(MODEL_ID, n)):
        with pytest.raises(PresetError, match="not a valid name"):
            ask(name)


@pytest.mark.parametrize(
    ("model_id", "folder"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("google/gemma-2-2b-it", "gemma-2-2b-it"),
        ("openlm-research/open_llama_3b", "open-llama-3b"),
        ("My model (copy)", "my-model-copy"),
        ("a/../../etc", "etc"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-instruct"),
    ],
)
def test_every_model_has_a_folder_inside_the_library(
    tmp_path: Path, model_id: str, folder: str
) -> None:
    assert Library(tmp_path).model_folder(model_id) == tmp_path / folder


def test_the_user_s_own_presets_come_before_those_that_ship(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    library = Library(shipped, own=own)
    for folder, name in ((shipped / "gpt2", "a"), (shipped / "gpt2", "b"), (own / "gpt2", "b"),
                         (own / "gemma-2-2b", "c")):  # fmt: skip
        folder.mkdir(exist_ok=True, parents=True)
        (folder / f"{name}.json").write_text("{}")
    assert library.model_ids() == ["gemma-2-2b", "gpt2"]
    assert library.preset_ids("openai-community/gpt2") == ["a", "b"]
    assert library.preset_path("openai-community/gpt2", "a") == shipped / "gpt2" / "a.json"
    assert library.preset_path("openai-community/gpt2", "b") == own / "gpt2" / "b.json"
    assert library.preset_paths() == [
        own / "gemma-2-2b" / "c.json",
        shipped / "gpt2" / "a.json",
        own / "gpt2" / "b.json",
    ]
    with pytest.raises(PresetError, match=r"no preset 'c' for gpt2\. Available: a, b|'c'"):
        library.preset_path("gpt2", "c")


def test_nothing_is_written_among_what_ships(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    (shipped / "gpt2" / "sae" / "3").mkdir(parents=True)
    library = Library(shipped, own=own)
    assert library.model_folder("openai-community/gpt2") == own / "gpt2"
    assert library.sae_folder("gpt2", 3) == own / "gpt2" / "sae" / "3"
    assert library.sae_folders("gpt2") == {3: shipped / "gpt2" / "sae" / "3"}
    library.sae_folder("gpt2", 3).mkdir(parents=True)
    assert library.sae_folders("gpt2") == {3: own / "gpt2" / "sae" / "3"}
    assert library.place_of(own / "gpt2" / "sae" / "3") == "gpt2/sae/3"
    assert library.place_of(shipped / "gpt2") == "gpt2"
    assert library.place_of(tmp_path) is None


def test_the_user_s_folder_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAIF_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "presets"
    monkeypatch.delenv("SAIF_HOME")
    assert "saif" in str(user_folder())


@pytest.mark.parametrize("model_id", ["", "/", "..", "a/.."])
def test_a_model_id_without_a_name_is_refused(tmp_path: Path, model_id: str) -> None:
    with pytest.raises(PresetError, match="not a valid name"):
        Library(tmp_path).model_folder(model_id)


def test_a_library_that_is_not_there_is_empty(tmp_path: Path) -> None:
    library = Library(tmp_path / "nowhere")
    assert (library.instruction_ids(), library.model_ids(), library.preset_ids("a/b")) == (
        [],
        [],
        [],
    )
