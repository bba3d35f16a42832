"""Run folders with planted rates, as `evaluate` and `sweep` would leave them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saif.core.types import Placement
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord, RunFolder, RunRecord, Timing
from saif.presets.preset import ModelRef

N_LAYERS = 30
LOREM = "The river was quiet that morning, and nobody in the village knew why the boats lay idle."


def record(kind: str = "evaluate", *, n: int, **changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "kind": kind,
        "command": f"python -m saif {kind} --data sentences --preset letter -n {n}",
        "model": ModelRef(id="made-up-135m", fingerprint="f" * 64, n_layers=N_LAYERS, d_model=576),
        "quantize": "none",
        "presets": {"letter": "a" * 64},
        "contents": {"sentence": "b" * 64},
        "placements": ["pre", "post"],
        "conditions": ["unsteered", "steered"],
        "over": None,
        "values": [],
        "n": n,
        "seed": 0,
        "temperature": 0.0,
        "max_new_tokens": {"letter": 64},
        "versions": {"saif": "0.2.0", "torch": "2.13.0"},
    }
    return RunRecord(**{**values, **changes})


def content(i: int) -> str:
    return f"Text {i}: my brother bought a new bicycle last week."


def reply(cell: Cell, i: int, outcome: str, **changes: Any) -> ReplyRecord:
    """outcome: strict, followed (and not strict), repeats (loose but degenerate), lost (degenerate
    and not loose) or plain (neither)."""
    steered = cell.condition not in ("unsteered", "prompted", "prompted-suffix")
    degenerate = outcome in ("repeats", "lost")
    values: dict[str, Any] = {
        "cell": cell,
        "content": content(i),
        "message": content(i),
        "push": {"dose": 0.4} if steered else None,
        "text": f"Dear {cell.condition}, {outcome} {i}. "
        + ("and and " * 9 if degenerate else LOREM),
        "token_ids": [1, 2, 3],
        "stop": "end",
        "steered": 4 if steered else 0,
        "dose": 0.4 if steered else None,
        "loose": outcome in ("strict", "followed", "repeats"),
        "strict": outcome == "strict",
        "about": outcome == "strict",
        "problems": ["repeats itself", "one token dominates"] if degenerate else [],
        "perplexity": 90.0 if degenerate else 7.5 + i % 3,
    }
    return ReplyRecord(**{**values, **changes})


def outcomes(n: int, strict: int, followed: int, repeats: int = 0, lost: int = 0) -> list[str]:
    """followed: strict ones included. What is left is plain."""
    told = ["strict"] * strict + ["followed"] * (followed - strict) + ["repeats"] * repeats
    told += ["lost"] * lost
    return told + ["plain"] * (n - len(told))


def replies(cell: Cell, told: Sequence[str], **changes: Any) -> list[ReplyRecord]:
    return [reply(cell, i, outcome, **changes) for i, outcome in enumerate(told)]


def cell(
    condition: str,
    placement: Placement = "pre",
    *,
    preset: str = "letter",
    value: float | str | None = None,
) -> Cell:
    return Cell(preset=preset, placement=placement, condition=condition, value=value)


def write_run(
    path: Path, header: RunRecord, cells: Mapping[Cell, Sequence[ReplyRecord]]
) -> RunFolder:
    run = RunFolder.open(path, header)
    for place, found in cells.items():
        run.append(found, Timing(cell=place, tokens=640, generation_seconds=8, judging_seconds=1))
    return run


# Rates as the embedded model might give them: strict, followed, loose but degenerate, lost; of 50.
_TYPICAL = {
    "unsteered": (0, 0, 0, 1),
    "steered": (30, 40, 4, 2),
    "prompted": (42, 50, 0, 0),
    "mean-difference": (25, 35, 6, 3),
    "saif": (1, 3, 0, 46),
    "single-latent": (2, 6, 1, 12),
    "random": (0, 0, 0, 4),
    "wrong-instruction": (0, 1, 0, 6),
    "prompted-suffix": (40, 48, 0, 0),
    "steered-suffix": (27, 36, 3, 3),
}


def evaluation(
    presets: Sequence[str] = ("letter", "translate-french"), n: int = 50
) -> dict[Cell, list[ReplyRecord]]:
    """A whole evaluation. Post is worse than pre; the second preset is worse than the first."""
    cells = {}
    for number, preset in enumerate(presets):
        for placement in ("pre", "post"):
            for condition, counts in _TYPICAL.items():
                less = 0.25 * (placement == "post") + 0.15 * number
                strict, followed, repeats, lost = (
                    round(count * n / 50 * (1 - less if kind < 2 else 1))
                    for kind, count in enumerate(counts)
                )
                place = cell(condition, placement, preset=preset)
                cells[place] = replies(place, outcomes(n, strict, followed, repeats, lost))
    return cells


def sweep(
    rates: Mapping[float | str, int], n: int = 50, preset: str = "letter"
) -> dict[Cell, list[ReplyRecord]]:
    """value -> how many of `n` follow, steered; with unsteered and prompted levels beside it."""
    cells = {}
    for condition, followed in (("unsteered", 1), ("prompted", n - 2)):
        place = cell(condition, preset=preset)
        cells[place] = replies(place, outcomes(n, followed // 2, followed))
    for value, followed in rates.items():
        place = cell("steered", preset=preset, value=value)
        cells[place] = replies(
            place, outcomes(n, followed // 2, followed, lost=(n - followed) // 3)
        )
    return cells
