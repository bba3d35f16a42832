"""Commands that make presets: train an SAE, identify latents, calibrate."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from saif.cli.options import (
    DEFAULT_MODEL,
    EffortOption,
    ModelOption,
    PresetIdsOption,
    PresetsOption,
    SaesOption,
    open_engine,
    open_library,
)
from saif.provenance import command_typed

DataOption = Annotated[
    Path,
    typer.Option(
        "--data", metavar="PATH", help="A folder of sentence pairs and stories, or a text file."
    ),
]


def train_sae(
    data: DataOption,
    layer: Annotated[
        list[int] | None, typer.Option("--layer", metavar="L", help="May be given several times.")
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    presets: PresetsOption = None,
    tokens: Annotated[int, typer.Option(help="Tokens of text to read.")] = 1_060_000,
    epochs: Annotated[float, typer.Option(help="How often each token is seen.")] = 1.0,
    width: Annotated[int, typer.Option(help="Latents per residual dimension.")] = 8,
    k: Annotated[int, typer.Option(help="Active latents per token, on average.")] = 32,
    work: Annotated[
        Path, typer.Option(help="For residual streams and checkpoints; a few GB.")
    ] = Path("runs/sae"),
) -> None:
    """Train an SAE per layer on the model's residual stream. Goes on where it was interrupted."""
    from saif.experiments.train_sae.trainer import SaeTraining, train_saes

    engine = open_engine(model)
    library = open_library(presets)
    train_saes(
        engine.language_model,
        library,
        data,
        layer or [engine.model.n_layers - 1],
        SaeTraining(width=width, k=k, n_tokens=int(tokens * epochs)),
        n_tokens=tokens,
        work=work,
        command=command_typed(),
    )


def identify(
    data: DataOption,
    instruction: Annotated[
        list[str] | None,
        typer.Option("--instruction", metavar="ID", help="Several allowed; all if left out."),
    ] = None,
    sae: SaesOption = None,
    model: ModelOption = DEFAULT_MODEL,
    presets: PresetsOption = None,
    n: Annotated[int, typer.Option(help="Texts per instruction.")] = 100,
) -> None:
    """Find each instruction's latents and write uncalibrated presets."""
    from saif.experiments.build import identify_presets

    engine = open_engine(model)
    identify_presets(engine, open_library(presets), data, instruction, sae, n=n)


def calibrate(
    data: DataOption,
    preset: PresetIdsOption = None,
    sae: SaesOption = None,
    model: ModelOption = DEFAULT_MODEL,
    presets: PresetsOption = None,
    n: Annotated[int, typer.Option(help="Held-out texts to score on.")] = 50,
    again: Annotated[bool, typer.Option("--again", help="Also presets that have scores.")] = False,
    search: Annotated[
        Literal["all", "rival", "none"],
        typer.Option(help="rival: mean difference alone; none: only score. The rest is kept."),
    ] = "all",
    effort: EffortOption = "thorough",
) -> None:
    """Search each preset's best setting, then evaluate it on held-out texts beside all baselines.

    The evaluation's replies stay in `runs/` beside the presets, where `report` reads them.
    """
    from saif.experiments.build import calibrate_presets

    engine = open_engine(model)
    calibrate_presets(
        engine,
        open_library(presets),
        data,
        preset,
        sae,
        n=n,
        again=again,
        search=search,
        effort=effort,
        command=command_typed(),
    )
