"""Build of a model's presets: identify, calibrate, score, write."""

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from saif.core.relevance import N_DISTRACTORS
from saif.core.types import PLACEMENTS, Thoroughness
from saif.engine.local import LocalEngine
from saif.errors import InputError, SaeError
from saif.experiments.baselines import CONDITIONS, Subject
from saif.experiments.calibrate.budget import BUDGETS
from saif.experiments.calibrate.search import Search, calibrate
from saif.experiments.calibrate.space import replies_made
from saif.experiments.datasets import read_contents
from saif.experiments.evaluate.plan import plan_scores
from saif.experiments.evaluate.run import Evaluation
from saif.experiments.evaluate.run_folder import RunFolder
from saif.experiments.evaluate.summary import stored_scores
from saif.experiments.identify import build_presets, n_prompts, read_activations
from saif.presets.library import Library, write_preset
from saif.progress import Part, ProgressListener, bar, ignore_progress
from saif.runtime.catalog import known
from saif.runtime.sae import Sae, load_sae

N_SCORED = 20
"""Held-out texts that a made preset is scored on, unless told otherwise; as many ship."""


def identify_presets(
    engine: LocalEngine,
    library: Library,
    data: Path | None,
    instruction_ids: Sequence[str] | None,
    sae_sources: Sequence[str] | None,
    *,
    n: int,
    on_progress: ProgressListener = ignore_progress,
) -> None:
    """Write a preset per instruction, uncalibrated, with the latents of every available SAE.

    All instructions are read, even if few are wanted: each is the others' control. Without `data`,
    here and below, the sentences that ship for making presets are read.
    """
    if n < 2:
        raise InputError(f"Latents can't be told from {n} texts.", hint="Give --n 2 or more.")
    for name in instruction_ids or ():
        library.instruction(name)  # raises, listing what there is
    instructions = library.instructions()
    kinds = sorted({instruction.contents for instruction in instructions})
    source = data or _shipped(library)
    contents = {kind: read_contents(source, kind, "identify", n) for kind in kinds}
    sources = _sae_sources(engine, library, sae_sources)
    layers = sorted(sources)
    activations = read_activations(
        engine.language_model, instructions, contents, layers, on_progress=on_progress
    )
    wanted = [item for item in instructions if not instruction_ids or item.id in instruction_ids]
    load = _loader(library, sources)
    folder = library.model_folder(engine.model.id)
    for preset in build_presets(engine, wanted, activations, load, layers, on_progress=on_progress):
        write_preset(folder, preset)


def make_presets(
    engine: LocalEngine,
    library: Library,
    data: Path | None,
    preset_ids: Sequence[str] | None,
    sae_sources: Sequence[str] | None,
    *,
    n: int = N_SCORED,
    effort: Thoroughness = "thorough",
    on_progress: ProgressListener = ignore_progress,
    command: str,
) -> None:
    """Identify and calibrate what a model lacks. Goes on where it was interrupted.

    Without `data` only instructions for sentences can be made.
    """
    possible = makeable(library, data)
    wanted = list(preset_ids or possible)
    for name in wanted:
        library.instruction(name)  # raises, listing what there is
        if name not in possible:
            raise InputError(
                f"'{name}' is made with passages, and only sentences ship with saif.",
                hint="Give --data a folder with stories.",
            )
    there = set(library.preset_ids(engine.model.id))
    missing = [name for name in wanted if name not in there]
    if missing:
        n_texts = BUDGETS[effort, "sentence"].identify_on
        identify_presets(
            engine, library, data, missing, sae_sources, n=n_texts, on_progress=on_progress
        )
    calibrate_presets(
        engine,
        library,
        data,
        wanted,
        sae_sources,
        n=n,
        again=False,
        effort=effort,
        on_progress=on_progress,
        command=command,
    )


def _shipped(library: Library) -> Path:
    return library.root / "contents" / "making.txt"


def makeable(library: Library, data: Path | None = None) -> list[str]:
    """The instructions that presets can be made for."""
    kinds = {"sentence"} if data is None else {"sentence", "passage"}
    return [item.id for item in library.instructions() if item.contents in kinds]


def work_left(
    engine: LocalEngine, library: Library, name: str, effort: Thoroughness, *, n: int = N_SCORED
) -> dict[Part, int]:
    """How much of each part `make_presets` has to do for one preset. Raises SaeError if it can't
    be made because there is no SAE."""
    layers = len(_sae_sources(engine, library, None))
    instructions = library.instructions()
    each = BUDGETS[effort, library.instruction(name).contents]
    search = replies_made(layers, each) + n * len(CONDITIONS)
    if name not in library.preset_ids(engine.model.id):
        prompts = n_prompts(instructions, each.identify_on)
        return {"prompts": prompts, "layers": layers, "replies": len(PLACEMENTS) * search}
    parts = library.card(engine.model.id, name).placements.values()
    return {"prompts": 0, "layers": 0, "replies": search * sum(not p.scores for p in parts)}


def calibrate_presets(
    engine: LocalEngine,
    library: Library,
    data: Path | None,
    preset_ids: Sequence[str] | None,
    sae_sources: Sequence[str] | None,
    *,
    n: int,
    again: bool,
    search: Search = "all",
    effort: Thoroughness = "thorough",
    on_progress: ProgressListener = ignore_progress,
    command: str,
) -> None:
    """Calibrate and score presets, writing each as soon as it is done.

    A preset that has scores already is left alone unless `again`, so an interrupted run goes on.
    What isn't searched stays, and is scored anew. The scores summarise an evaluation, whose replies
    stay in `runs/` beside the presets, a folder for each preset and placement.

    Raises InputError if there is nothing to calibrate or too little text, PresetError for a preset
    of another model, SaeError without an SAE.
    """
    names = list(preset_ids or library.preset_ids(engine.model.id))
    if not names:
        raise InputError(
            f"There are no presets for {engine.model.id} yet.",
            hint="Make them with `python -m saif identify`.",
        )
    if n <= N_DISTRACTORS:
        raise InputError(
            f"{n} held-out texts are too few to score on.",
            hint=f"Give --n {N_DISTRACTORS + 1} or more.",
        )
    load = _loader(library, _sae_sources(engine, library, sae_sources))
    with bar() as progress:
        replies = progress.add_task("Replies", total=None)

        def advance(count: int) -> None:
            progress.advance(replies, count)
            on_progress("replies", count)

        texts = functools.cache(functools.partial(read_contents, data or _shipped(library)))
        evaluation = Evaluation(engine, advance=advance)
        folder = library.model_folder(engine.model.id)
        jobs = [(name, placement) for name in names for placement in PLACEMENTS]
        overall = progress.add_task("Presets × placements", total=len(jobs))
        for name, placement in jobs:
            progress.update(overall, description=f"{name}, {placement}")
            preset = library.preset(engine.model.id, name)
            preset.check_model(engine.model)
            if again or preset.preset.placements[placement].scores is None:
                instruction = library.instruction(preset.preset.instruction)
                each = BUDGETS[effort, instruction.contents]
                develop = texts(instruction.contents, "develop", each.third)
                held_out = texts(instruction.contents, "held-out", n)
                found = calibrate(
                    engine,
                    preset,
                    instruction,
                    placement,
                    develop,
                    each,
                    search=search,
                    advance=advance,
                )
                chosen = preset.with_part(
                    placement, choice=found.choice, mean_difference=found.mean_difference
                )
                subject = Subject(
                    preset=chosen, instruction=instruction, placement=placement, load=load
                )
                bound = round(found.bound, 2)
                record, trials = plan_scores(
                    engine,
                    library,
                    subject,
                    held_out,
                    bound=bound,
                    max_new_tokens=each.max_new_tokens,
                    command=command,
                )
                path = folder / "runs" / f"{name}-{placement}-{record.identity()[:10]}"
                if again:
                    shutil.rmtree(path, ignore_errors=True)
                run = RunFolder.open(path, record)  # the same run goes on
                for _ in evaluation.run(run, trials):
                    pass
                scores = stored_scores(run, bound)
                write_preset(folder, chosen.with_part(placement, scores=scores))
            progress.advance(overall)


def sae_loader(
    engine: LocalEngine, library: Library, given: Sequence[str] | None = None
) -> Callable[[int], Sae]:
    """Loads the SAE of a layer, looking for it only then: most conditions need none."""

    loader = functools.cache(lambda: _loader(library, _sae_sources(engine, library, given)))
    return lambda layer: loader()(layer)


def _sae_sources(
    engine: LocalEngine, library: Library, given: Sequence[str] | None
) -> dict[int, str]:
    """layer -> where its SAE is: what was given, the model's own folder in the library, or the
    published ones of a known model."""
    if given:
        return {load_sae(source).site.layer: source for source in given}
    found = {layer: str(path) for layer, path in library.sae_folders(engine.model.id).items()}
    entry = known(engine.model.id)
    if not found and entry is not None:
        found = dict(zip(entry.default_layers(), entry.default_saes(), strict=False))
    if not found:
        raise SaeError(
            f"There is no SAE for {engine.model.id}.",
            hint="Give --sae RELEASE/ID or a folder, or train one with `python -m saif train-sae`.",
        )
    return found


def _loader(library: Library, sources: dict[int, str]) -> Callable[[int], Sae]:
    """Loads an SAE by layer, keeping the last few. An SAE inside the library is named by its
    place there, so that presets don't depend on where the library lies."""

    @functools.lru_cache(maxsize=2)
    def load(layer: int) -> Sae:
        if layer not in sources:
            raise SaeError(
                f"No SAE for layer {layer} was given.",
                hint=f"There are SAEs for layers {', '.join(map(str, sorted(sources)))}.",
            )
        source = Path(sources[layer])
        sae = load_sae(sources[layer])
        place = library.place_of(source) if source.is_dir() else None
        return sae if place is None else replace(sae, id=place)

    return load
