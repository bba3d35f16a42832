"""Calibration search: a preset's layers, selection, k, β, dose and schedule, on texts of their own.

Three rounds of successive halving: many fading candidates on a few texts, the best ones and their
neighbours on more, and at last the winners with other schedules (steady, clamping and so on) on
more still. The objective is strict accuracy, then loose accuracy with degenerate replies counted as
failures, then the smaller dose; what is degenerate beyond `MAX_DEGENERATE` counts against both.
Whether replies are relevant to their content is expensive to check, so it is done in the last round
only, and only for candidates that can still win. Mean difference goes through the same search, so
that it is a fair baseline.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saif.core.fluency import perplexity_bound
from saif.core.types import Placement, Sampling
from saif.engine.local import LocalEngine
from saif.errors import ModelError, PresetError
from saif.experiments.calibrate.budget import SearchBudget
from saif.experiments.calibrate.space import (
    SearchSpace,
    distinct,
    final_variants,
    initial_grid,
    neighbours,
    search_spaces,
)
from saif.experiments.evaluate.score import (
    CheckedReply,
    Task,
    check_form,
    check_relevance,
    make_replies,
)
from saif.presets.instructions import Instruction, place
from saif.presets.preset import LoadedPreset
from saif.presets.spec import SteeringSpec

Search = Literal["all", "rival", "none"]
"""What is searched: latents and mean difference, mean difference alone, or neither."""

_CHECKED_TOGETHER = 4

MAX_DEGENERATE = 0.15
"""The share of degenerate replies that costs nothing beyond those replies themselves."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the search found."""

    choice: SteeringSpec
    mean_difference: SteeringSpec
    bound: float
    """The perplexity beyond which a reply is degenerate."""


def calibrate(
    engine: LocalEngine,
    preset: LoadedPreset,
    instruction: Instruction,
    placement: Placement,
    contents: Sequence[str],
    budget: SearchBudget,
    *,
    search: Search = "all",
    advance: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """The best choice for one placement, found on `contents` only. What isn't searched stays as the
    preset has it. Raises ModelError for a model that answers with nothing, PresetError for a preset
    that was never calibrated if nothing is searched."""
    scorer = _Scorer(engine, preset, instruction, placement, budget, advance)
    contents = contents[: budget.third]
    part = preset.preset.placements[placement]
    choice, mean_difference = part.choice, part.mean_difference
    if search == "none" and mean_difference is None:
        raise PresetError(
            f"The preset '{preset.id}' has no choice yet to keep.",
            hint="Calibrate it with the search first.",
        )
    bound = scorer.perplexity_bound(contents)
    scorer = replace(scorer, bound=bound)
    baseline, own = search_spaces(len(part.layer_numbers), budget)

    def best_of(space: SearchSpace) -> SteeringSpec:
        first = initial_grid(part.layer_numbers, space.recipes, budget.doses)
        scores = scorer.score(first, contents[: budget.first], budget.first_tokens)
        ranking = distinct(_best(first, scores, len(first)))
        second = neighbours(ranking[: space.semifinalists])
        scores = scorer.score(second, contents[: space.texts], budget.max_new_tokens)
        finalists = _best(second, scores, space.finalists)
        return scorer.strictest(final_variants(finalists, ranking), contents)

    if mean_difference is None or search != "none":
        mean_difference = best_of(baseline)
    if search == "all":
        choice = best_of(own)
    return Calibration(choice, mean_difference, bound)


Objective = tuple[float, float]


def _best(
    specs: Sequence[SteeringSpec], scores: Mapping[SteeringSpec, Objective], n: int
) -> list[SteeringSpec]:
    return sorted(specs, key=lambda spec: (scores[spec], -spec.dose), reverse=True)[:n]


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Scores candidates for one preset and placement."""

    engine: LocalEngine
    preset: LoadedPreset
    instruction: Instruction
    placement: Placement
    budget: SearchBudget
    advance: Callable[[int], None]
    bound: float = math.inf

    def perplexity_bound(self, contents: Sequence[str]) -> float:
        """Derived from the replies to the instruction in words."""
        wording = self.instruction.main_wording
        tasks = [Task(place(wording, text, self.placement), text) for text in contents]
        checked = self._check(tasks, self.budget.max_new_tokens)
        bound = perplexity_bound([j.fluency.perplexity or math.nan for j in checked])
        if not math.isfinite(bound):
            raise ModelError(
                f"{self.engine.model.id} answers '{wording}' with nothing at all.",
                hint="An instruction that it doesn't follow in words can't be calibrated.",
            )
        return bound

    def score(
        self, specs: Sequence[SteeringSpec], contents: Sequence[str], max_new_tokens: int
    ) -> dict[SteeringSpec, Objective]:
        """Every candidate on every text; all replies are taken to be relevant."""
        return self._objectives(self._check_each(specs, contents, max_new_tokens))

    def strictest(self, specs: Sequence[SteeringSpec], contents: Sequence[str]) -> SteeringSpec:
        """The best candidate on `contents`, relevance included.

        Checking relevance can only lower an objective. So the most promising are checked first, and
        checking ends when the best of those can't be beaten any more.
        """
        checked = self._check_each(specs, contents, self.budget.max_new_tokens)
        upper_bounds = self._objectives(checked)
        ranking = _best(specs, upper_bounds, len(specs))
        scores: dict[SteeringSpec, Objective] = {}
        for start in range(0, len(ranking), _CHECKED_TOGETHER):
            next_best = ranking[start : start + _CHECKED_TOGETHER]
            challenger = next_best[:1]
            if scores and _best([*scores, *challenger], upper_bounds | scores, 1) != challenger:
                break
            flat = [j for spec in next_best for j in checked[spec]]
            found = check_relevance(self.engine, self.instruction, flat, contents)
            scores |= self._objectives(_split(next_best, found))
        return _best(list(scores), scores, 1)[0]

    def _objectives(
        self, checked: Mapping[SteeringSpec, Sequence[CheckedReply]]
    ) -> dict[SteeringSpec, Objective]:
        return {spec: _objective(replies, self.bound) for spec, replies in checked.items()}

    def _check_each(
        self, specs: Sequence[SteeringSpec], contents: Sequence[str], max_new_tokens: int
    ) -> dict[SteeringSpec, list[CheckedReply]]:
        """All become rows of shared batches."""
        steerings = [self.preset.assemble(self.placement, spec) for spec in specs]
        tasks = [Task(text, text, steering) for steering in steerings for text in contents]
        return _split(specs, self._check(tasks, max_new_tokens))

    def _check(self, tasks: Sequence[Task], max_new_tokens: int) -> list[CheckedReply]:
        sampling = Sampling(max_new_tokens=max_new_tokens)
        replies = make_replies(self.engine, tasks, sampling=sampling, advance=self.advance)
        return check_form(self.engine, self.instruction, tasks, replies)


def _split(
    specs: Sequence[SteeringSpec], checked: Sequence[CheckedReply]
) -> dict[SteeringSpec, list[CheckedReply]]:
    """Each candidate with its own share of `checked`, which is in their order."""
    n = len(checked) // len(specs)
    return {spec: list(checked[i * n : (i + 1) * n]) for i, spec in enumerate(specs)}


def _objective(checked: Sequence[CheckedReply], bound: float) -> Objective:
    """(strict, loose and fluent), each as a share less what is degenerate beyond the limit."""
    n = len(checked)
    excess = max(0.0, sum(j.degenerate(bound) for j in checked) / n - MAX_DEGENERATE)
    return (
        sum(j.strict(bound) for j in checked) / n - excess,
        sum(j.loose and not j.degenerate(bound) for j in checked) / n - excess,
    )
