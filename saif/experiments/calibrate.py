"""Search a preset's layer, selection, k, β and dose on texts kept for that.

Two rounds: many candidates on a few texts, then the best ones and their neighbours on more. The
objective is strict accuracy, then loose accuracy with degenerate replies counted as failures,
then the smaller dose. Mean difference goes through the same search, so that it is a fair rival.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from saif.core.fluency import perplexity_bound
from saif.core.spec import Placement
from saif.engine import LocalEngine
from saif.errors import ModelError
from saif.experiments.directions import LatentPush, Push, steering_for
from saif.experiments.scoring import Judged, Task, judge, make_replies
from saif.presets.instructions import ContentKind, Instruction, place
from saif.presets.preset import Choice, LoadedPreset

_RECIPES = (
    LatentPush(selection="signed", rule="delta", k=15),
    LatentPush(selection="contrast", rule="delta", k=15),
    LatentPush(selection="saif", rule="delta", k=15),
    LatentPush(selection="saif", rule="mean", k=15),
)
_DOSES = (0.25, 0.45)
_NEIGHBOUR_DOSES = (0.75, 1, 1.3)
_MORE_LATENTS = 40
_FINALISTS, _RIVALS = 2, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to search: texts and tokens per reply in the first and the second round."""

    first: int = 4
    first_tokens: int = 24
    second: int = 12
    max_new_tokens: int = 40


EFFORTS: dict[ContentKind, Effort] = {
    "sentence": Effort(),
    # A passage's summary is only judged once it has come to its end.
    "passage": Effort(first_tokens=64, max_new_tokens=64),
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the search found. bound: the perplexity beyond which a reply is degenerate."""

    choice: Choice
    mean_difference: Push
    bound: float


def calibrate(
    engine: LocalEngine,
    preset: LoadedPreset,
    instruction: Instruction,
    placement: Placement,
    contents: Sequence[str],
    effort: Effort,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """The best choice for one placement, judged on `contents` only."""
    trial = _Trial(engine, preset, instruction, placement, effort, advance)
    contents = contents[: effort.second]
    bound = trial.perplexity_bound(contents)
    layers = preset.preset.placements[placement].layer_numbers
    recipes: list[LatentPush | None] = [*_RECIPES, None]
    opening = [
        Push(layer=layer, dose=dose, latents=recipe)
        for layer in layers
        for recipe in recipes
        for dose in _DOSES
    ]
    first = trial.score(opening, contents[: effort.first], bound, effort.first_tokens)
    rivals = _best([push for push in opening if push.latents is None], first, _RIVALS)
    finalists = _best(_apart([push for push in opening if push.latents], first), first, _FINALISTS)
    closing = list(dict.fromkeys([*_neighbours(finalists), *_neighbours(rivals)]))
    second = trial.score(closing, contents, bound, effort.max_new_tokens)
    winner = _best([push for push in closing if push.latents], second, 1)[0]
    rival = _best([push for push in closing if push.latents is None], second, 1)[0]
    return Calibration(_as_choice(winner), rival, bound)


def _neighbours(pushes: Sequence[Push]) -> list[Push]:
    """Each push with a smaller and a larger dose and with more latents; the best one also with β
    to either side."""
    found = []
    for number, push in enumerate(pushes):
        found += [replace(push, dose=round(push.dose * factor, 3)) for factor in _NEIGHBOUR_DOSES]
        if push.latents is not None:
            found.append(replace(push, latents=replace(push.latents, k=_MORE_LATENTS)))
            betas = (-0.5, 0.5) if number == 0 else ()
            found += [replace(push, latents=replace(push.latents, beta=beta)) for beta in betas]
    return found


Objective = tuple[float, float, float]


def _best(pushes: Sequence[Push], scores: dict[Push, Objective], n: int) -> list[Push]:
    return sorted(pushes, key=lambda push: (scores[push], -push.dose), reverse=True)[:n]


def _apart(pushes: Sequence[Push], scores: dict[Push, Objective]) -> list[Push]:
    """The best dose of every layer and recipe: two doses of one would crowd out the others."""
    best: dict[tuple[int, LatentPush | None], Push] = {}
    for push in _best(pushes, scores, len(pushes)):
        best.setdefault((push.layer, push.latents), push)
    return list(best.values())


def _as_choice(push: Push) -> Choice:
    assert push.latents is not None
    return Choice(
        layer=push.layer,
        selection=push.latents.selection,
        rule=push.latents.rule,
        k=push.latents.k,
        beta=push.latents.beta,
        dose=push.dose,
        span="response",
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """One preset and placement under trial."""

    engine: LocalEngine
    preset: LoadedPreset
    instruction: Instruction
    placement: Placement
    effort: Effort
    advance: Callable[[int], None]

    def perplexity_bound(self, contents: Sequence[str]) -> float:
        """Derived from the replies to the instruction in words."""
        wording = self.instruction.main_wording
        tasks = [Task(place(wording, text, self.placement), text) for text in contents]
        judged = self._judge(tasks, contents, self.effort.max_new_tokens)
        bound = perplexity_bound([j.fluency.perplexity or math.nan for j in judged])
        if not math.isfinite(bound):
            raise ModelError(
                f"{self.engine.model.id} answers '{wording}' with nothing at all.",
                hint="An instruction that it doesn't follow in words can't be calibrated.",
            )
        return bound

    def score(
        self, pushes: Sequence[Push], contents: Sequence[str], bound: float, max_new_tokens: int
    ) -> dict[Push, Objective]:
        """Every push on every text; all become rows of shared batches."""
        steerings = {push: steering_for(self.preset, self.placement, push) for push in pushes}
        tasks = [Task(text, text, steerings[push]) for push in pushes for text in contents]
        judged = self._judge(tasks, contents, max_new_tokens)
        n = len(contents)
        return {
            push: _objective(judged[i * n : (i + 1) * n], bound) for i, push in enumerate(pushes)
        }

    def _judge(
        self, tasks: Sequence[Task], contents: Sequence[str], max_new_tokens: int
    ) -> list[Judged]:
        replies = make_replies(
            self.engine, tasks, max_new_tokens=max_new_tokens, advance=self.advance
        )
        return judge(self.engine, self.instruction.check, tasks, replies, contents=contents)


def _objective(judged: Sequence[Judged], bound: float) -> Objective:
    """(strict, loose and fluent, loose), each as a share."""
    n = len(judged)
    return (
        sum(j.strict(bound) for j in judged) / n,
        sum(j.loose and not j.degenerate(bound) for j in judged) / n,
        sum(j.loose for j in judged) / n,
    )
