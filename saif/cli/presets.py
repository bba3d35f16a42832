"""`presets`: list what there is, show one, make them for a model, share them, check a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from saif.cli import share
from saif.cli.options import (
    DEFAULT_MODEL,
    EffortOption,
    JsonOption,
    ModelOption,
    PresetIdsOption,
    PresetsOption,
    QuantizeOption,
    SaesOption,
    open_engine,
    open_library,
)
from saif.cli.output import console, plain, print_json
from saif.cli.scoreboard import scoreboard
from saif.core.types import PLACEMENTS, Placement
from saif.errors import PresetError
from saif.provenance import command_typed

if TYPE_CHECKING:
    from saif.presets.library import Library
    from saif.presets.preset import Preset, Scores

group = typer.Typer(help="List presets (the default), show, make, share or check them.")
group.command()(share.push)
group.command()(share.pull)


def scan(library: "Library") -> "tuple[list[Preset], list[tuple[Path, str]]]":
    """The card of every preset file of a library, and the files that are broken, each with what is
    wrong with it."""
    from saif.presets.library import read_card

    cards, broken = [], []
    for path in library.preset_paths():
        try:
            cards.append(read_card(path))
        except PresetError as error:
            broken.append((path, str(error)))
    return cards, broken


@group.callback(invoke_without_command=True)
def presets(
    context: typer.Context, presets: PresetsOption = None, json: JsonOption = False
) -> None:
    if context.invoked_subcommand is None:
        list_presets(presets, json, markdown=False)
    elif presets is not None or json:
        raise typer.BadParameter(f"Options go after '{context.invoked_subcommand}'.")


@group.command("list")
def list_presets(
    presets: PresetsOption = None,
    json: JsonOption = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All scores as a table, as in docs/presets.md.")
    ] = False,
) -> None:
    """Every preset and how well it works.

    Loose: the share of replies that recognisably do what the preset says.
    """
    library = open_library(presets)
    cards, broken = scan(library)
    if markdown:
        print(scoreboard(cards))
        return
    if json:
        print_json(
            {
                "presets": [_summary(card) for card in cards],
                "broken": [{"path": str(path), "problem": problem} for path, problem in broken],
                "instructions": library.instruction_ids(),
            }
        )
        return
    screen = console()
    for model in sorted({card.model.id for card in cards}):
        screen.print(_table([card for card in cards if card.model.id == model], model))
    if not cards:
        ids = ", ".join(library.instruction_ids()) or "none"
        screen.print(f"No presets yet. Instructions one can be made for: {ids}.", soft_wrap=True)
    for _, problem in broken:
        screen.print(plain(f"not ok: {problem}"), soft_wrap=True)


def _table(cards: "list[Preset]", model: str) -> Table:
    table = Table(
        "Preset", "Placement", "Layer", "k", "Dose", "Loose", title=plain(model), box=SIMPLE_HEAD
    )
    for card in cards:
        for placement in PLACEMENTS:
            part = card.placements[placement]
            choice = part.choice
            scores = part.scores.condition("steered") if part.scores else None
            table.add_row(
                card.id if placement == PLACEMENTS[0] else "",
                placement,
                str(choice.layer),
                str(part.latents.k),
                f"{choice.dose:.2f}",
                f"{scores.loose.value:.0%} of {scores.loose.n}" if scores else "not measured",
            )
    return table


def _summary(card: "Preset") -> dict[str, Any]:
    placements = {}
    for placement, part in card.placements.items():
        scores = part.scores.condition("steered") if part.scores else None
        placements[placement] = {
            **part.choice.flat(),
            "layers": part.layer_numbers,
            "loose": scores.loose.value if scores else None,
        }
    return {
        "id": card.id,
        "title": card.title,
        "instruction": card.instruction,
        "model": card.model.id,
        "placements": placements,
    }


@group.command()
def show(
    preset: Annotated[str, typer.Argument(metavar="ID", help="A preset's id.")],
    model: ModelOption = DEFAULT_MODEL,
    presets: PresetsOption = None,
    json: JsonOption = False,
) -> None:
    """The latents, the calibrated choice, the scores."""
    from saif.runtime.load import model_id

    card = open_library(presets).card(model_id(model), preset)
    if json:
        print_json(card.model_dump(mode="json"))
        return
    screen = console()
    screen.print(plain(f"{card.title} ({card.id}) for {card.model.id}"), style="bold")
    for placement in PLACEMENTS:
        part = card.placements[placement]
        choice, latents = part.choice, part.latents
        screen.print()
        screen.print(
            f"Instruction {'before' if placement == 'pre' else 'after'} the content ({placement}): "
            f"layer {choice.layer}, {latents.k} latents by {latents.selection} selection, "
            f"coefficients by {latents.rule}, beta {latents.beta:g}, dose {choice.dose:.2f}, "
            f"span {choice.span}"
        )
        screen.print(_latent_table(card, placement))
        screen.print(_score_table(part.scores) if part.scores else "Not measured.")


def _latent_table(card: "Preset", placement: Placement) -> Table:
    """The latents that the calibrated choice uses, best first."""
    from saif.presets.preset import LoadedPreset

    part = card.placements[placement]
    selected = LoadedPreset(card).select(placement, part.choice.layer, part.latents)
    table = Table(
        "Latent", "Sensitivity", "Others", "Mean", "Mean Δ", "Words it raises", box=SIMPLE_HEAD
    )
    for latent in selected.latents:
        table.add_row(
            str(latent.id),
            f"{latent.sensitivity:.2f}",
            f"{latent.other_sensitivity:.2f}",
            f"{latent.mean:.2f}",
            f"{latent.delta:+.2f}",
            plain(", ".join(word.strip() or repr(word) for word in latent.words)),
        )
    return table


def _score_table(scores: "Scores") -> Table:
    """Rates in per cent; loose and strict with their 95 % intervals."""
    table = Table(
        Column("Condition", no_wrap=True), "Loose", "Strict", "Degen.", "Perpl.", "Layer", "Dose",
        title=f"{scores.n} texts of {scores.split}, up to {scores.max_new_tokens} tokens; per cent",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for row in scores.conditions:
        rates = [
            f"{100 * rate.value:.0f} ({100 * rate.low:.0f}–{100 * rate.high:.0f})"
            for rate in (row.loose, row.strict)
        ]
        rates.append(f"{100 * row.degenerate.value:.0f}")
        perplexity = "" if row.perplexity is None else f"{row.perplexity:.1f}"
        layer = "" if row.layer is None else str(row.layer)
        dose = "" if row.dose is None else f"{row.dose:.2f}"
        table.add_row(plain(row.condition), *rates, perplexity, layer, dose)
    return table


@group.command()
def build(
    preset: PresetIdsOption = None,
    model: ModelOption = DEFAULT_MODEL,
    quantize: QuantizeOption = "none",
    sae: SaesOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="PATH", help="Texts to make them with, instead of those that ship."
        ),
    ] = None,
    presets: PresetsOption = None,
    n: Annotated[int, typer.Option(help="Held-out texts to score on.")] = 20,
    effort: EffortOption = "thorough",
    every: Annotated[
        bool, typer.Option("--all", help="Every preset that it lacks; the default.")
    ] = False,
) -> None:
    """Make the presets that a model lacks: identify, calibrate and score them.

    A preset of the embedded model takes about 20 minutes of one core; bigger models take longer
    in proportion. Goes on where it was interrupted.
    """
    from saif.experiments.build import make_presets

    if every and preset:
        raise typer.BadParameter("Name presets or give --all, not both.")

    engine = open_engine(model, quantize)
    library = open_library(presets)
    make_presets(engine, library, data, preset, sae, n=n, effort=effort, command=command_typed())
    print(library.model_folder(engine.model.id))


@group.command()
def validate(
    path: Annotated[Path, typer.Argument(help="A preset (.json) or an instruction (.yaml).")],
    json: JsonOption = False,
) -> None:
    """Check a file: OK, or the field that is wrong."""
    from saif.presets.library import read_instruction, read_preset

    if path.suffix == ".safetensors":
        path = path.with_suffix(".json")
    if path.suffix == ".json":
        kind = "preset"
        read_preset(path)
    elif path.suffix == ".yaml":
        kind = "instruction"
        read_instruction(path)
    else:
        raise PresetError(
            f"'{path}' is neither a preset nor an instruction.", hint="Give a .json or .yaml file."
        )
    if json:
        print_json({"path": str(path), "kind": kind, "ok": True})
    else:
        print(f"OK: {path} is a valid {kind}.")
