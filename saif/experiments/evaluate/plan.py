"""Plan of a run: its cells, what each is made of, and the record of it all."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from saif import __version__
from saif.core.types import COEFFICIENT_RULES, PLACEMENTS, SELECTIONS, Placement, Schedule
from saif.engine.local import LocalEngine
from saif.errors import InputError
from saif.experiments.baselines import CONDITIONS, Condition, Subject
from saif.experiments.calibrate.budget import HALF_LIFE, MAX_NEW_TOKENS
from saif.experiments.datasets import evaluation_contents
from saif.experiments.evaluate.run import Trial
from saif.experiments.evaluate.run_folder import Cell, RunRecord
from saif.files import sha256_of
from saif.presets.library import Library
from saif.presets.preset import LoadedPreset
from saif.presets.spec import MAX_STORED_LATENTS
from saif.runtime.sae import Sae

Parameter = Literal[
    "layer", "k", "beta", "strength", "placement", "selection", "rule", "half-life", "shape"
]
PARAMETERS: tuple[Parameter, ...] = get_args(Parameter)
Value = int | float | str

_PACKAGES = ("torch", "transformers", "tokenizers")
_SHAPES = {
    "plain": Schedule(),
    "fading": Schedule(half_life=HALF_LIFE),
    "keep-norm": Schedule(keep_norm=True),
    "clamp": Schedule(clamp=True),
}
_VALUES: dict[Parameter, tuple[Value, ...]] = {
    "k": (1, 2, 5, 10, 15, 25, 40, MAX_STORED_LATENTS),
    "beta": (-1, -0.5, 0, 0.5, 1),
    "strength": (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2),
    "placement": PLACEMENTS,
    "selection": SELECTIONS,
    "rule": COEFFICIENT_RULES,
    "half-life": (4, 8, 16, 32, 64),
    "shape": tuple(_SHAPES),
}
"""What is swept if no values are given; for layers, all that a preset stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What to measure."""

    presets: Sequence[str]
    """All of the model's, if none is named."""
    placements: Sequence[Placement]
    data: Path | None
    """None: the texts that ship with the presets."""
    n: int
    """Texts per cell."""
    temperature: float
    seed: int
    command: str


def plan_evaluation(
    engine: LocalEngine,
    library: Library,
    plan: RunPlan,
    conditions: Sequence[Condition],
    load: Callable[[int], Sae],
) -> tuple[RunRecord, list[Trial]]:
    """A cell for every preset, placement and condition."""
    subjects = _subjects(engine, library, plan, load, others="wrong-instruction" in conditions)
    trials = _trials(library, plan, subjects, conditions)
    return _record(engine, plan, trials, _digests(engine, library, trials)), trials


def plan_scores(
    engine: LocalEngine,
    library: Library,
    subject: Subject,
    contents: Sequence[str],
    *,
    bound: float,
    max_new_tokens: int,
    command: str,
) -> tuple[RunRecord, list[Trial]]:
    """The evaluation that a calibrated preset's stored scores summarise: all of `CONDITIONS` on
    held-out `contents`, greedy. Its record has the digest of what this placement steers by, without
    any scores, and of the bound that its replies are checked with."""
    preset = subject.preset
    # Of this placement only: what the other one holds changes no reply.
    part = preset.with_part(subject.placement, scores=None).preset.placements[subject.placement]
    vectors = library.preset_path(engine.model.id, preset.id).with_suffix(".safetensors")
    parts = (part.model_dump_json().encode(), vectors.read_bytes(), repr(bound).encode())
    plan = RunPlan(
        presets=[preset.id],
        placements=[subject.placement],
        data=None,
        n=len(contents),
        temperature=0,
        seed=subject.seed,
        command=command,
    )
    trials = [
        Trial(_cell(subject, condition), subject, condition, contents, max_new_tokens, bound)
        for condition in CONDITIONS
    ]
    return _record(engine, plan, trials, {preset.id: sha256_of(parts)}), trials


def plan_sweep(
    engine: LocalEngine,
    library: Library,
    plan: RunPlan,
    over: Parameter,
    values: Sequence[str],
    load: Callable[[int], Sae],
) -> tuple[RunRecord, list[Trial]]:
    """Steered cells for every value, beside unsteered and prompted ones. All else stays as
    calibrated; the dose too, unless the strength is swept."""
    if over == "placement":
        plan = replace(plan, placements=PLACEMENTS)
    subjects = _subjects(engine, library, plan, load, others=False)
    trials: list[Trial] = []
    used: dict[Value, None] = {}
    for trial in _trials(library, plan, subjects, ("unsteered", "prompted", "steered")):
        if trial.condition != "steered":
            trials.append(trial)
            continue
        for value in _values(over, values, trial.subject):
            if over != "placement" or value == trial.subject.placement:
                used[value] = None
                trials.append(_with_value(trial, over, value))
    digests = _digests(engine, library, trials)
    return _record(engine, plan, trials, digests, over=over, values=list(used)), trials


def _with_value(trial: Trial, over: Parameter, value: Any) -> Trial:
    """The trial with a swept value in place of the calibrated one."""
    trial = replace(trial, cell=trial.cell.model_copy(update={"value": value}))
    if over == "placement":  # each has its own calibrated choice
        return trial
    if over == "strength" and value == 0:  # nothing steers at all
        return replace(trial, condition="unsteered")
    subject = trial.subject
    spec = subject.preset.preset.placements[subject.placement].choice
    if over == "strength":
        spec = replace(spec, dose=spec.dose * float(value))
    elif over == "layer":
        spec = replace(spec, layer=value, extra_layers=())
    elif over == "half-life":
        spec = replace(spec, schedule=replace(spec.schedule, half_life=value))
    elif over == "shape":
        spec = replace(spec, schedule=_SHAPES[value])
    else:
        assert spec.latents is not None
        spec = replace(spec, latents=replace(spec.latents, **{over: value}))
    preset = subject.preset.with_part(subject.placement, choice=spec)
    return replace(trial, subject=replace(subject, preset=preset))


def _values(over: Parameter, given: Sequence[str], subject: Subject) -> list[Value]:
    """The values to sweep, checked. Raises InputError naming the first that can't be."""
    layers = subject.preset.preset.placements[subject.placement].layer_numbers
    offered: Sequence[Value] = sorted(layers) if over == "layer" else _VALUES[over]
    if not given:
        return list(offered)
    if isinstance(offered[0], str) or over == "layer":
        known = {str(value): value for value in offered}
        wrong = [text for text in given if text not in known]
        if wrong:
            raise InputError(
                f"'{wrong[0]}' is not a value of {over}.", hint=f"Choose from {', '.join(known)}."
            )
        return [known[text] for text in given]
    return [_number(over, text) for text in given]


def _number(over: Parameter, text: str) -> int | float:
    ranges = {"k": (1, MAX_STORED_LATENTS), "beta": (-1, 1), "half-life": (1, 10_000)}
    low, high = ranges.get(over, (0, 10))  # of a strength
    whole = over in ("k", "half-life")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or (whole and value != int(value)):
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{over} must be {kind} from {low:g} to {high:g}, not '{text}'.")
    return int(value) if whole else value


def _subjects(
    engine: LocalEngine,
    library: Library,
    plan: RunPlan,
    load: Callable[[int], Sae],
    *,
    others: bool,
) -> list[Subject]:
    ids = list(dict.fromkeys(plan.presets)) or library.preset_ids(engine.model.id)
    if not ids:
        raise InputError(
            f"There are no presets for {engine.model.id} yet.",
            hint="Make them with `python -m saif identify` and `calibrate`.",
        )
    subjects = []
    for name in ids:
        preset = library.preset(engine.model.id, name)
        preset.check_model(engine.model)
        instruction = library.instruction(preset.preset.instruction)
        other = _another(engine, library, preset) if others else None
        for placement in plan.placements:
            subject = Subject(
                preset=preset,
                instruction=instruction,
                placement=placement,
                other=other,
                load=load,
                seed=plan.seed,
            )
            _ = subject.bound  # refuses what isn't calibrated before hours are spent
            subjects.append(subject)
    return subjects


def _another(engine: LocalEngine, library: Library, preset: LoadedPreset) -> LoadedPreset | None:
    """The next preset in the library with another instruction for the same kind of contents."""
    kind = library.instruction(preset.preset.instruction).contents
    ids = library.preset_ids(engine.model.id)
    start = ids.index(preset.id)
    for name in [*ids[start + 1 :], *ids[:start]]:
        card = library.card(engine.model.id, name)
        same = card.instruction == preset.preset.instruction
        if not same and library.instruction(card.instruction).contents == kind:
            return library.preset(engine.model.id, name)
    return None


def _trials(
    library: Library, plan: RunPlan, subjects: Sequence[Subject], conditions: Sequence[Condition]
) -> list[Trial]:
    kinds = {subject.instruction.contents for subject in subjects}
    texts = {
        kind: evaluation_contents(library.root, plan.data, kind, plan.n) for kind in sorted(kinds)
    }
    trials = []
    for subject in subjects:
        kind = subject.instruction.contents
        contents, longest = texts[kind], MAX_NEW_TOKENS[kind]
        trials += [
            Trial(_cell(subject, name), subject, name, contents, longest, subject.bound)
            for name in conditions
        ]
    return trials


def _cell(subject: Subject, condition: Condition) -> Cell:
    return Cell(preset=subject.preset.id, placement=subject.placement, condition=condition)


def _digests(engine: LocalEngine, library: Library, trials: Sequence[Trial]) -> dict[str, str]:
    """Preset id -> sha256 of its two files, for all presets that steer in these trials."""
    subjects = [trial.subject for trial in trials]
    presets = {preset.id for one in subjects for preset in (one.preset, one.other) if preset}
    return {
        name: sha256_of(
            library.preset_path(engine.model.id, name).with_suffix(suffix).read_bytes()
            for suffix in (".json", ".safetensors")
        )
        for name in sorted(presets)
    }


def _record(
    engine: LocalEngine,
    plan: RunPlan,
    trials: Sequence[Trial],
    digests: dict[str, str],
    *,
    over: Parameter | None = None,
    values: Sequence[Value] = (),
) -> RunRecord:
    kinds = {trial.subject.instruction.contents: trial for trial in trials}
    return RunRecord(
        kind="evaluate" if over is None else "sweep",
        command=plan.command,
        model=engine.model,
        quantize=engine.language_model.quantize,
        presets=digests,
        contents={
            kind: hashlib.sha256("\n".join(trial.contents).encode()).hexdigest()
            for kind, trial in sorted(kinds.items())
        },
        placements=list(plan.placements),
        conditions=list(dict.fromkeys(trial.condition for trial in trials)),
        over=over,
        values=list(values),
        n=plan.n,
        seed=plan.seed,
        temperature=plan.temperature,
        max_new_tokens={kind: trial.max_new_tokens for kind, trial in sorted(kinds.items())},
        versions={"saif": __version__, **{name: version(name) for name in _PACKAGES}},
    )
