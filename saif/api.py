"""The Python interface: the functions that `import saif` offers.

Thin functions over the rooms below, with values for results. The command line goes through the
same rooms.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saif.chat import Comparison, Turn, TurnState, take_turn
from saif.core.steering import Steering
from saif.core.types import PLACEMENTS, Placement, Sampling, Span, Thoroughness
from saif.engine.local import LocalEngine
from saif.errors import InputError
from saif.experiments.baselines import CONDITIONS, Condition
from saif.experiments.build import calibrate_presets, identify_presets, makeable, sae_loader
from saif.experiments.evaluate.plan import RunPlan, plan_evaluation
from saif.experiments.evaluate.run import Evaluation, Trial
from saif.experiments.evaluate.run_folder import RunFolder, RunRecord
from saif.experiments.evaluate.summary import Row, summaries
from saif.presets.controls import Controls
from saif.presets.library import Library, read_preset, user_folder
from saif.presets.preset import LoadedPreset
from saif.progress import bar
from saif.runtime import introspect
from saif.runtime.language_model import LanguageModel
from saif.runtime.load import load_model as load_model
from saif.runtime.load import model_id
from saif.runtime.steering_context import SteeringContext

Model = LanguageModel | LocalEngine
"""What `load_model` gives, or an engine around it."""

Presets = Library | Path | str | None
"""Where presets lie: a library, its folder, or None for the shipped ones and the user's own."""

_SAMPLING = Sampling()


def list_presets(model: Model | str, *, presets: Presets = None) -> list[str]:
    """Ids of the presets there are for a model."""
    return _library(presets).preset_ids(_id_of(model))


def load_preset(
    name: str | Path, model: Model | str | None = None, *, presets: Presets = None
) -> LoadedPreset:
    """The preset called `name` of a model, or the one whose `.json` card lies at a path.

    model: what `load_model` gave, or its name. Raises PresetError where there is no such preset,
    or where it was made for another model than this one.
    """
    if isinstance(name, Path) or name.endswith(".json"):
        preset = read_preset(Path(name))
    else:
        if model is None:
            raise InputError(f"Whose preset '{name}'?", hint="Give the model, or its name.")
        preset = _library(presets).preset(_id_of(model), name)
    if model is not None and not isinstance(model, str):
        preset.check_model(_engine(model).model)
    return preset


class ComparisonSteps(Iterator[TurnState]):
    """The steps of a comparison, one per decoded token; `result()` is where they lead."""

    def __init__(self, steps: Iterator[TurnState]) -> None:
        self._steps = steps
        self._last: TurnState | None = None

    def __next__(self) -> TurnState:
        self._last = next(self._steps)
        return self._last

    def result(self) -> TurnState:
        """The finished replies; makes whatever is left of them."""
        for _ in self:
            pass
        assert self._last is not None
        return self._last


def compare(
    model: Model,
    message: str,
    preset: LoadedPreset | str,
    *,
    placement: Placement = "post",
    strength: float = 1.0,
    k: int | None = None,
    layer: int | None = None,
    span: Span | None = None,
    prompted: bool = True,
    max_new_tokens: int = _SAMPLING.max_new_tokens,
    temperature: float = _SAMPLING.temperature,
    top_p: float = _SAMPLING.top_p,
    repetition_penalty: float = _SAMPLING.repetition_penalty,
    seed: int = _SAMPLING.seed,
    history: Comparison | None = None,
    presets: Presets = None,
) -> ComparisonSteps:
    """Answer a message unsteered, steered and, if `prompted`, with the instruction in words.

    The columns are rows of one batch and share their sampling noise. Each step holds every column
    so far: `step.steered.text`, `step.unsteered.text`, and `step.prompted.text`.

    strength: 1 is the calibrated dose, 0 is off. k, layer, span: as calibrated if None.
    history: `comparison` of an earlier result, to go on with that conversation.
    Raises SaifError before the first step: InputError on a value out of range, PresetError on a
    preset of another model.
    """
    if isinstance(preset, str):
        preset = load_preset(preset, model, presets=presets)
    turn = Turn(
        text=message,
        preset=preset,
        instruction=_library(presets).instruction(preset.preset.instruction),
        controls=Controls(placement=placement, strength=strength, k=k, layer=layer, span=span),
        sampling=Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        ),
        with_prompted=prompted,
    )
    return ComparisonSteps(take_turn(_engine(model), history or Comparison(), turn))


def steering(hf_model: Any, steering: Steering | None, *, tokenizer: Any = None) -> SteeringContext:
    """Steer a plain transformers model while a `with` block runs.

        with saif.steering(hf_model, preset.steering()):
            hf_model.generate(**prompts)

    Batches may be padded on the left; `generate` may use its KV cache or not. The prompt is what
    the first forward call of each `generate` runs. None steers nothing, nor does a strength of 0.

    tokenizer: needed for the spans "prompt" and "all", which leave control tokens alone.
    Raises SteeringError if the directions don't fit the model, if a position was not changed as
    the span says, and at the end of the block if nothing was steered in it.
    """
    if steering is not None and steering.span != "response" and tokenizer is None:
        raise InputError(
            f"The span '{steering.span}' leaves control tokens alone, and only the tokenizer "
            "knows them.",
            hint="Give tokenizer=…",
        )
    control_ids = introspect.control_ids(tokenizer) if tokenizer is not None else ()
    return SteeringContext(hf_model, steering, control_ids=control_ids)


def identify(
    model: Model,
    instructions: Sequence[str] = (),
    *,
    data: Path | str | None = None,
    n: int = 80,
    saes: Sequence[str] = (),
    presets: Presets = None,
) -> list[LoadedPreset]:
    """Find the latents of instructions, write uncalibrated presets, and return them.

    instructions: ids; if empty, all that can be found in the data. data: a folder of sentence pairs
    and stories, or a text file with a content on each line; None for the sentences that ship.
    n: texts per instruction. saes: RELEASE/ID or folders, one per layer; the model's own if empty.
    The files go to the user's presets, or to `presets`.
    Raises SaeError without an SAE, InputError where the texts don't suffice.
    """
    engine, library = _engine(model), _library(presets)
    wanted = instructions or makeable(library, _path(data))
    identify_presets(engine, library, _path(data), wanted, saes, n=n)
    return [library.preset(engine.model.id, name) for name in wanted]


def calibrate(
    model: Model,
    names: Sequence[str] = (),
    *,
    data: Path | str | None = None,
    n: int = 20,
    effort: Thoroughness = "thorough",
    again: bool = False,
    saes: Sequence[str] = (),
    presets: Presets = None,
) -> list[LoadedPreset]:
    """Search each preset's best setting, score it on `n` held-out texts beside its baselines,
    write it, and return it.

    names: preset ids; all of the model's if empty. Presets that have scores are left as they are
    unless `again`. For the rest see `identify`.
    Raises InputError where there are no presets or too few texts.
    """
    engine, library = _engine(model), _library(presets)
    calibrate_presets(
        engine,
        library,
        _path(data),
        names,
        saes,
        n=n,
        again=again,
        effort=effort,
        command="saif.calibrate(…)",
    )
    wanted = names or library.preset_ids(engine.model.id)
    return [library.preset(engine.model.id, name) for name in wanted]


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` measured."""

    folder: RunFolder
    """Where every reply lies: `folder.replies()`."""

    rows: list[Row]
    """A row of rates per preset, placement and condition."""

    def __str__(self) -> str:
        return "\n".join(
            f"{row.cell}: loose {row.loose.value:.0%}, strict {row.strict.value:.0%}, "
            f"degenerate {row.degenerate.value:.0%} of {row.n}"
            for row in self.rows
        )


def evaluate(
    model: Model,
    names: Sequence[str] = (),
    *,
    conditions: Sequence[Condition] = CONDITIONS[:6],
    placement: Placement | Literal["both"] = "both",
    data: Path | str | None = None,
    n: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
    saes: Sequence[str] = (),
    presets: Presets = None,
    out: Path | str | None = None,
) -> EvaluationResult:
    """Measure presets beside their baselines, keeping every reply. Goes on where it was
    interrupted.

    names: preset ids; all of the model's if empty. data: as for `identify`; None for sentences
    that ship and that no preset was made with. n: texts per preset and condition. out: a folder;
    None for one under `runs/`, the same for the same arguments.
    Raises InputError where there are no presets or too few texts, PresetError on one that is not
    calibrated.
    """
    engine, library = _engine(model), _library(presets)
    plan = RunPlan(
        presets=names,
        placements=PLACEMENTS if placement == "both" else (placement,),
        data=_path(data),
        n=n,
        temperature=temperature,
        seed=seed,
        command="saif.evaluate(…)",
    )
    load = sae_loader(engine, library, saes)
    record, trials = plan_evaluation(engine, library, plan, conditions, load)
    return measure(engine, record, trials, out)


def measure(
    engine: LocalEngine, record: RunRecord, trials: Sequence[Trial], out: Path | str | None = None
) -> EvaluationResult:
    """Run the trials of a planned evaluation or sweep into a folder; see `evaluate`."""
    name = record.kind if record.over is None else f"{record.kind}-{record.over}"
    # The same arguments on the same presets and texts have the same folder, and so go on.
    path = Path(out or Path("runs") / record.kind / f"{name}-{record.identity()[:10]}")
    folder = RunFolder.open(path, record)
    with bar() as progress:
        task = progress.add_task("Replies", total=len(trials) * record.n)
        evaluation = Evaluation(
            engine,
            temperature=record.temperature,
            seed=record.seed,
            advance=lambda count: progress.advance(task, count),
        )
        for done, cell in enumerate(evaluation.run(folder, trials), 1):
            progress.update(task, description=str(cell), completed=done * record.n)
    return EvaluationResult(folder, summaries(folder.cells(), folder.timings()))


def _engine(model: Model) -> LocalEngine:
    return LocalEngine(model) if isinstance(model, LanguageModel) else model


def _id_of(model: Model | str) -> str:
    return model_id(model) if isinstance(model, str) else _engine(model).model.id


def _library(presets: Presets) -> Library:
    if isinstance(presets, Library):
        return presets
    return Library(own=user_folder()) if presets is None else Library(Path(presets))


def _path(data: Path | str | None) -> Path | None:
    return None if data is None else Path(data)
