"""`evaluate` and `sweep`: presets measured under conditions, and over a parameter."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from saif.cli.options import (
    DEFAULT_MODEL,
    JsonOption,
    ModelOption,
    PresetIdsOption,
    PresetsOption,
    QuantizeOption,
    SaesOption,
    open_engine,
    open_library,
)
from saif.cli.output import chatter_to_stderr, console, note, print_json
from saif.core.types import PLACEMENTS
from saif.errors import InputError
from saif.provenance import command_typed

if TYPE_CHECKING:
    from saif.api import EvaluationResult
    from saif.core.statistics import Rate
    from saif.experiments.evaluate.plan import RunPlan
    from saif.experiments.evaluate.run import Trial
    from saif.experiments.evaluate.run_folder import RunRecord
    from saif.experiments.evaluate.summary import Row

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="PATH", help="A folder of text or a text file, instead of what ships."
    ),
]
WhereOption = Annotated[
    str, typer.Option("--placement", metavar="pre|post|both", help="Which placements to measure.")
]
NOption = Annotated[int, typer.Option("--n", min=4, help="Texts per preset and condition.")]
TemperatureOption = Annotated[
    float, typer.Option(min=0, max=5, help="0 takes the likeliest token at every step.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, metavar="I", help="Of sampling and of random latents.")
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where to keep the replies (default: under runs/)."),
]

_DEFAULT_CONDITIONS = "unsteered,steered,prompted,mean-difference,random,single-latent"


def evaluate(
    preset: PresetIdsOption = None,
    n: NOption = 100,
    conditions: Annotated[
        str, typer.Option(metavar="A,B,…", help="What to compare; see docs/results.")
    ] = _DEFAULT_CONDITIONS,
    placement: WhereOption = "both",
    data: DataOption = None,
    model: ModelOption = DEFAULT_MODEL,
    quantize: QuantizeOption = "none",
    sae: SaesOption = None,
    presets: PresetsOption = None,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Measure presets beside their baselines. Goes on where it was interrupted."""
    from saif.experiments.baselines import ALL_CONDITIONS
    from saif.experiments.evaluate.plan import plan_evaluation

    asked = _listed(conditions, ALL_CONDITIONS, "condition")
    plan = _plan(preset, placement, data, n, temperature, seed)
    planned = partial(plan_evaluation, plan=plan, conditions=asked)
    _measure(planned, model, quantize, presets, sae, out, json)


def sweep(
    over: Annotated[
        str,
        typer.Option(
            "--over",
            metavar="PARAMETER",
            help="layer, k, beta, strength, placement, selection, rule, half-life or shape.",
        ),
    ],
    values: Annotated[
        str, typer.Option(metavar="A,B,…", help="Which values (default: a sensible range).")
    ] = "",
    preset: PresetIdsOption = None,
    n: NOption = 50,
    placement: WhereOption = "both",
    data: DataOption = None,
    model: ModelOption = DEFAULT_MODEL,
    quantize: QuantizeOption = "none",
    presets: PresetsOption = None,
    temperature: TemperatureOption = 0.0,
    seed: SeedOption = 0,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Steer with one parameter varied and all else as calibrated, the dose too."""
    from saif.experiments.evaluate.plan import PARAMETERS, plan_sweep

    (parameter,) = _listed(over, PARAMETERS, "parameter", 1)
    chosen = [part.strip() for part in values.split(",") if part.strip()]
    plan = _plan(preset, placement, data, n, temperature, seed)
    planned = partial(plan_sweep, plan=plan, over=parameter, values=chosen)
    _measure(planned, model, quantize, presets, None, out, json)


def _plan(
    presets: list[str] | None,
    placement: str,
    data: Path | None,
    n: int,
    temperature: float,
    seed: int,
) -> "RunPlan":
    from saif.experiments.evaluate.plan import RunPlan

    where = PLACEMENTS if placement == "both" else _listed(placement, PLACEMENTS, "placement", 1)
    return RunPlan(
        presets=presets or [],
        placements=where,
        data=data,
        n=n,
        temperature=temperature,
        seed=seed,
        command=command_typed(),
    )


def _measure(
    planned: "Callable[..., tuple[RunRecord, list[Trial]]]",
    model: str,
    quantize: Any,
    presets: Path | None,
    sae: Sequence[str] | None,
    out: Path | None,
    json: bool,
) -> None:
    from saif.api import measure
    from saif.experiments.build import sae_loader

    library = open_library(presets)
    engine = open_engine(model, quantize)
    record, trials = planned(engine, library, load=sae_loader(engine, library, sae))
    with chatter_to_stderr():
        result = measure(engine, record, trials, out)
    _show(result, json)


def _show(result: "EvaluationResult", json: bool) -> None:
    folder, rows = result.folder, result.rows
    if json:
        print_json(
            {
                "run": str(folder.path),
                "model": folder.record.model.id,
                "n": folder.record.n,
                "results": [_as_json(row) for row in rows],
            }
        )
        return
    swept = folder.record.over is not None
    columns = ("Preset", "Placement", "Condition", *([folder.record.over] if swept else ()))
    table = Table(
        *(str(column) for column in columns),
        *("Loose", "Strict", "Degenerate", "Dose", "Tokens/s"),
        box=SIMPLE_HEAD,
    )
    for row in rows:
        value = [] if not swept else ["" if row.cell.value is None else str(row.cell.value)]
        table.add_row(
            row.cell.preset,
            row.cell.placement,
            row.cell.condition,
            *value,
            *(_percent(rate) for rate in (row.loose, row.strict, row.degenerate)),
            "" if row.dose is None else f"{row.dose:.2f}",
            "" if row.tokens_per_second is None else f"{row.tokens_per_second:.0f}",
        )
    console().print(table)
    note(f"n = {folder.record.n}; 95 % Wilson intervals. Every reply is in {folder.path}.")


def _percent(rate: "Rate") -> str:
    low, high = rate.wilson()
    return f"{rate.value:4.0%} ({low:.0%} – {high:.0%})"


def _as_json(row: "Row") -> dict[str, object]:
    def interval(rate: "Rate") -> dict[str, float]:
        low, high = rate.wilson()
        return {"value": round(rate.value, 4), "low": round(low, 4), "high": round(high, 4)}

    return {
        "preset": row.cell.preset,
        "placement": row.cell.placement,
        "condition": row.cell.condition,
        "value": row.cell.value,
        "n": row.n,
        "loose": interval(row.loose),
        "strict": interval(row.strict),
        "degenerate": interval(row.degenerate),
        "loose_and_fluent": interval(row.followed),
        "perplexity": row.perplexity,
        "dose": row.dose,
        "tokens_per_second": row.tokens_per_second and round(row.tokens_per_second, 1),
    }


def _listed(text: str, known: Sequence[Any], what: str, only: int | None = None) -> list[Any]:
    """A comma-separated list of known names. Raises InputError naming the one that isn't."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names or (only is not None and len(names) != only):
        raise InputError(
            f"'{(wrong or [text])[0]}' is not a {what}.", hint=f"Choose from {', '.join(known)}."
        )
    return names
