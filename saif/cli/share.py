"""`presets push` and `presets pull`: presets as a repository on the Hugging Face hub."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saif import __version__
from saif.cli.options import (
    DEFAULT_MODEL,
    ModelOption,
    PresetIdsOption,
    PresetsOption,
    open_library,
)
from saif.cli.scoreboard import scoreboard
from saif.errors import PresetError

if TYPE_CHECKING:
    from saif.presets.library import Library
    from saif.presets.preset import LoadedPreset, Preset

RepositoryArgument = Annotated[str, typer.Argument(metavar="YOU/NAME", help="On the hub.")]


def push(
    repository: RepositoryArgument,
    preset: PresetIdsOption = None,
    model: ModelOption = DEFAULT_MODEL,
    presets: PresetsOption = None,
    private: Annotated[bool, typer.Option(help="If the repository has to be made.")] = False,
) -> None:
    """Share a model's presets on the hub, with a card that shows their scores."""
    from saif.presets.library import write_preset
    from saif.runtime import hub
    from saif.runtime.load import model_id

    library = open_library(presets)
    found = model_id(model)
    names = preset or library.preset_ids(found)
    if not names:
        raise PresetError(
            f"There are no presets for {found}.",
            hint="Make some with `python -m saif presets build`.",
        )
    loaded = [library.preset(found, name) for name in names]  # nothing damaged leaves this machine
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in loaded:
            write_preset(folder, each)
        card = card_of(repository, [each.preset for each in loaded])
        (folder / "README.md").write_text(card, "utf-8")
        try:
            address = hub.upload(
                folder, repository, message=f"Presets for {found}", private=private
            )
        except OSError as error:
            raise _refusal(f"The presets could not be sent to {repository}", error) from error
    print(address)


def pull(
    repository: RepositoryArgument,
    presets: PresetsOption = None,
    revision: Annotated[str, typer.Option(help="A branch, a tag or a commit.")] = "main",
    replace: Annotated[
        bool, typer.Option("--replace", help="Also presets that you have and that differ.")
    ] = False,
) -> None:
    """Fetch presets that somebody shares; each is checked before any is kept."""
    from saif.presets.library import read_preset, write_preset
    from saif.runtime import hub

    library = open_library(presets)
    try:
        folder = hub.download(repository, ["*.json", "*.safetensors"], revision=revision)
    except OSError as error:
        raise _refusal(f"The presets of {repository} could not be fetched", error) from error
    found = [read_preset(path) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise PresetError(f"{repository} holds no presets.")
    if not replace:
        _refuse_to_overwrite(library, found)
    for loaded in found:
        print(write_preset(library.model_folder(loaded.preset.model.id), loaded))


def _refuse_to_overwrite(library: "Library", found: "list[LoadedPreset]") -> None:
    for loaded in found:
        model = loaded.preset.model.id
        known = loaded.id in library.preset_ids(model)
        if known and library.card(model, loaded.id) != loaded.preset:
            raise PresetError(
                f"You have another preset '{loaded.id}' for {model}.",
                hint="Give --replace to lose it. Nothing was changed.",
            )


def _refusal(sentence: str, error: OSError) -> PresetError:
    return PresetError(
        f"{sentence}: {str(error).rstrip('.')}.",
        hint="Log in with `hf auth login` or set HF_TOKEN; both need a token of the hub.",
    )


def card_of(repository: str, cards: "list[Preset]") -> str:
    """The repository's README: what the presets are for, how to use them, and their scores."""
    model = cards[0].model.id
    layers = [layer for card in cards for part in card.placements.values() for layer in part.layers]
    saes = sorted({f"`{layer.sae.id}`" for layer in layers})
    names = [f"- `{card.id}`: {card.title}" for card in cards]
    parts = [
        f"---\nbase_model: {model}\nlibrary_name: saif\n"
        "tags: [steering, sparse-autoencoder, interpretability]\n---",
        f"# Presets for {model}",
        f"Instruction latents that steer {model} without a word in the prompt, made with saif "
        f"{__version__} after SAIF (arXiv 2502.11356). SAEs: {', '.join(saes)}.",
        "\n".join(names),
        f"    python -m saif presets pull {repository}\n    python app.py --model {model}",
        "Loose / degenerate replies in per cent, on texts that no preset was made with:",
        scoreboard(cards),
    ]
    return "\n\n".join(parts) + "\n"
