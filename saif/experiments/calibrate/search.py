"""Search a preset's layers, selection, k, β, dose and shape on texts kept for that.

Three rounds: many fading pushes on a few texts, the best ones and their neighbours on more, and
at last the winners in other shapes (steady, clamping and so on) on more still. The objective is
strict accuracy, then loose accuracy with degenerate replies counted as failures, then the smaller
dose; what is degenerate beyond `MAX_DEGENERATE` counts against both. Whether replies are about
their content, which is dear to find out, is asked in the last round only, and only of pushes that
can still win. Mean difference goes through the same search, so that it is a fair rival.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from saif.core.fluency import perplexity_bound
from saif.core.types import Placement, Sampling
from saif.engine.local import LocalEngine
from saif.errors import ModelError, PresetError
from saif.experiments.calibrate.budget import SearchBudget
from saif.experiments.calibrate.space import Field, apart, closing, fields, neighbours, opening
from saif.experiments.evaluate.score import Judged, Task, ask_about, judge_form, make_replies
from saif.presets.instructions import Instruction, place
from saif.presets.preset import LoadedPreset
from saif.presets.spec import SteeringSpec

_ASKED_TOGETHER = 4

MAX_DEGENERATE = 0.15
"""The share of degenerate replies that costs nothing beyond those replies themselves."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the search found. bound: the perplexity beyond which a reply is degenerate."""

    choice: SteeringSpec
    mean_difference: SteeringSpec
    bound: float


def calibrate(
    engine: LocalEngine,
    preset: LoadedPreset,
    instruction: Instruction,
    placement: Placement,
    contents: Sequence[str],
    effort: SearchBudget,
    *,
    latents: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """The best choice for one placement, judged on `contents` only. Without `latents` only mean
    difference is searched, and the preset's own choice stays."""
    trial = _Trial(engine, preset, instruction, placement, effort, advance)
    contents = contents[: effort.third]
    bound = trial.perplexity_bound(contents)
    part = preset.preset.placements[placement]
    rivals, own = fields(len(part.layer_numbers), effort)

    def search(field: Field) -> SteeringSpec:
        first = opening(part.layer_numbers, field.recipes, effort.doses)
        scores = trial.score(first, contents[: effort.first], bound, effort.first_tokens)
        ranking = apart(_best(first, scores, len(first)))
        second = neighbours(ranking[: field.semifinalists])
        scores = trial.score(second, contents[: field.texts], bound, effort.max_new_tokens)
        finalists = _best(second, scores, field.finalists)
        return trial.strictest(closing(finalists, ranking), contents, bound)

    mean_difference = search(rivals)
    choice = search(own) if latents else part.choice
    return Calibration(choice, mean_difference, bound)


def keep_choice(
    engine: LocalEngine,
    preset: LoadedPreset,
    instruction: Instruction,
    placement: Placement,
    contents: Sequence[str],
    effort: SearchBudget,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """The choice that the preset has, with the bound that its scores need; nothing is searched."""
    part = preset.preset.placements[placement]
    if part.mean_difference is None:
        raise PresetError(
            f"The preset '{preset.id}' has no choice yet to keep.",
            hint="Calibrate it with the search first.",
        )
    trial = _Trial(engine, preset, instruction, placement, effort, advance)
    bound = trial.perplexity_bound(contents[: effort.third])
    return Calibration(part.choice, part.mean_difference, bound)


Objective = tuple[float, float]


def _best(
    pushes: Sequence[SteeringSpec], scores: Mapping[SteeringSpec, Objective], n: int
) -> list[SteeringSpec]:
    return sorted(pushes, key=lambda push: (scores[push], -push.dose), reverse=True)[:n]


@dataclass(frozen=True, slots=True)
class _Trial:
    """One preset and placement under trial."""

    engine: LocalEngine
    preset: LoadedPreset
    instruction: Instruction
    placement: Placement
    effort: SearchBudget
    advance: Callable[[int], None]

    def perplexity_bound(self, contents: Sequence[str]) -> float:
        """Derived from the replies to the instruction in words."""
        wording = self.instruction.main_wording
        tasks = [Task(place(wording, text, self.placement), text) for text in contents]
        judged = self._judge(tasks, self.effort.max_new_tokens)
        bound = perplexity_bound([j.fluency.perplexity or math.nan for j in judged])
        if not math.isfinite(bound):
            raise ModelError(
                f"{self.engine.model.id} answers '{wording}' with nothing at all.",
                hint="An instruction that it doesn't follow in words can't be calibrated.",
            )
        return bound

    def score(
        self,
        pushes: Sequence[SteeringSpec],
        contents: Sequence[str],
        bound: float,
        max_new_tokens: int,
    ) -> dict[SteeringSpec, Objective]:
        """Every push on every text, all taken to be about their contents."""
        judged = self._judge_each(pushes, contents, max_new_tokens)
        return {push: _objective(judged[push], bound) for push in pushes}

    def strictest(
        self, pushes: Sequence[SteeringSpec], contents: Sequence[str], bound: float
    ) -> SteeringSpec:
        """The best push on `contents`, once it is known which replies are about them.

        Knowing can only lower an objective. So the most promising are asked first, and asking ends
        when the best of those can't be beaten any more.
        """
        judged = self._judge_each(pushes, contents, self.effort.max_new_tokens)
        hopes = {push: _objective(judged[push], bound) for push in pushes}
        ranking = _best(pushes, hopes, len(pushes))
        scores: dict[SteeringSpec, Objective] = {}
        for start in range(0, len(ranking), _ASKED_TOGETHER):
            hopeful = ranking[start : start + _ASKED_TOGETHER]
            if scores and _best([*scores, hopeful[0]], {**hopes, **scores}, 1)[0] in scores:
                break
            flat = [j for push in hopeful for j in judged[push]]
            asked = ask_about(self.engine, self.instruction, flat, contents)
            scores |= {
                push: _objective(each, bound) for push, each in _split(hopeful, asked).items()
            }
        return _best(list(scores), scores, 1)[0]

    def _judge_each(
        self, pushes: Sequence[SteeringSpec], contents: Sequence[str], max_new_tokens: int
    ) -> dict[SteeringSpec, list[Judged]]:
        """All become rows of shared batches."""
        steerings = [self.preset.assemble(self.placement, push) for push in pushes]
        tasks = [Task(text, text, steering) for steering in steerings for text in contents]
        return _split(pushes, self._judge(tasks, max_new_tokens))

    def _judge(self, tasks: Sequence[Task], max_new_tokens: int) -> list[Judged]:
        sampling = Sampling(max_new_tokens=max_new_tokens)
        replies = make_replies(self.engine, tasks, sampling=sampling, advance=self.advance)
        return judge_form(self.engine, self.instruction, tasks, replies)


def _split(
    pushes: Sequence[SteeringSpec], judged: Sequence[Judged]
) -> dict[SteeringSpec, list[Judged]]:
    """Every push with its own share of what is in the pushes' order."""
    n = len(judged) // len(pushes)
    return {push: list(judged[i * n : (i + 1) * n]) for i, push in enumerate(pushes)}


def _objective(judged: Sequence[Judged], bound: float) -> Objective:
    """(strict, loose and fluent), each as a share less what is degenerate beyond the limit."""
    n = len(judged)
    excess = max(0.0, sum(j.degenerate(bound) for j in judged) / n - MAX_DEGENERATE)
    return (
        sum(j.strict(bound) for j in judged) / n - excess,
        sum(j.loose and not j.degenerate(bound) for j in judged) / n - excess,
    )
