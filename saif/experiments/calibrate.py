"""Search a preset's layers, selection, k, β, dose and shape on texts kept for that.

Three rounds: many candidates on a few texts, the best ones and their neighbours on more, and at
last the winners' shapes (fading, clamping and so on) on more still. The objective is strict
accuracy, then loose accuracy with degenerate replies counted as failures, then the smaller dose;
what is degenerate beyond `MAX_DEGENERATE` counts against both. Whether replies are about their
content, which is dear to find out, is asked in the last round only. Mean difference goes through
the same search, so that it is a fair rival.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from saif.core.fluency import perplexity_bound
from saif.core.spec import Placement, Sampling, Shape
from saif.engine import LocalEngine
from saif.errors import ModelError, PresetError
from saif.experiments.scoring import Judged, Task, judge, make_replies
from saif.presets.instructions import ContentKind, Instruction, place
from saif.presets.preset import Choice, LoadedPreset, MeanDifferenceChoice
from saif.presets.push import LatentPush, Push, steering_for

_RECIPES = (
    LatentPush(selection="signed", rule="delta", k=15),
    LatentPush(selection="output", rule="delta", k=15),
    LatentPush(selection="contrast", rule="delta", k=15),
    LatentPush(selection="saif", rule="delta", k=15),
    LatentPush(selection="saif", rule="mean", k=15),
)
_DOSES = (0.25, 0.45)
_RIVAL_DOSES = (0.25, 0.4, 0.6)
_NEIGHBOUR_DOSES = (0.75, 1, 1.3)
_MORE_LATENTS = 40
_SEMIFINALISTS, _FINALISTS = 2, 2
_RIVAL_SEMIFINALISTS, _RIVAL_FINALISTS = 2, 1
_HARDER = 1.3  # what fades may start harder

HALF_LIFE = 16
"""Of the fading shape that is tried, in tokens."""

MAX_DEGENERATE = 0.15
"""The share of degenerate replies that costs nothing beyond those replies themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long to search: texts in each round, and tokens per reply in the first and after."""

    first: int = 4
    first_tokens: int = 24
    second: int = 12
    third: int = 20
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
    mean_difference: MeanDifferenceChoice
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
    contents = contents[: effort.third]
    bound = trial.perplexity_bound(contents)
    layers = preset.preset.placements[placement].layer_numbers
    recipes: list[LatentPush | None] = [*_RECIPES, None]
    opening = [
        Push(layers=(layer,), dose=dose, latents=recipe)
        for layer in layers
        for recipe in recipes
        for dose in (_DOSES if recipe else _RIVAL_DOSES)
    ]
    first = trial.score(opening, contents[: effort.first], bound, effort.first_tokens)
    latents = _apart([push for push in opening if push.latents], first)
    semifinalists = _best(latents, first, _SEMIFINALISTS)
    rivals = _best(
        _apart([push for push in opening if push.latents is None], first),
        first,
        _RIVAL_SEMIFINALISTS,
    )
    middle = list(dict.fromkeys([*_neighbours(semifinalists), *_neighbours(rivals)]))
    second = trial.score(middle, contents[: effort.second], bound, effort.max_new_tokens)
    finalists = [
        *_best([push for push in middle if push.latents], second, _FINALISTS),
        *_best([push for push in middle if push.latents is None], second, _RIVAL_FINALISTS),
    ]
    ranking = _best(latents, first, len(latents))
    closing = [shaped for push in finalists for shaped in _shapes(push, ranking)]
    third = trial.score(
        list(dict.fromkeys(closing)), contents, bound, effort.max_new_tokens, ask_about=True
    )
    winner = _best([push for push in third if push.latents], third, 1)[0]
    rival = _best([push for push in third if push.latents is None], third, 1)[0]
    best_rival = MeanDifferenceChoice(
        layer=rival.layers[0],
        dose=rival.dose,
        half_life=rival.shape.half_life,
        keep_norm=rival.shape.keep_norm,
    )
    return Calibration(_as_choice(winner), best_rival, bound)


def keep_choice(
    engine: LocalEngine,
    preset: LoadedPreset,
    instruction: Instruction,
    placement: Placement,
    contents: Sequence[str],
    effort: Effort,
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


def _shapes(push: Push, ranking: Sequence[Push]) -> list[Push]:
    """The push as it is and in every other shape; latents also at the next best layer as well."""
    fading = replace(push, shape=Shape(half_life=HALF_LIFE))
    found = [
        push,
        fading,
        replace(fading, dose=round(push.dose * _HARDER, 3)),
        replace(push, shape=Shape(keep_norm=True)),
    ]
    if push.latents is not None:
        found.append(replace(push, shape=Shape(clamp=True)))
        others = (p.layers[0] for p in ranking if p.layers[0] not in push.layers)
        found += [replace(push, layers=(*push.layers, layer)) for layer in [*others][:1]]
    return found


Objective = tuple[float, float]


def _best(pushes: Sequence[Push], scores: dict[Push, Objective], n: int) -> list[Push]:
    return sorted(pushes, key=lambda push: (scores[push], -push.dose), reverse=True)[:n]


def _apart(pushes: Sequence[Push], scores: dict[Push, Objective]) -> list[Push]:
    """The best dose of every layer and recipe: two doses of one would crowd out the others."""
    best: dict[tuple[tuple[int, ...], LatentPush | None], Push] = {}
    for push in _best(pushes, scores, len(pushes)):
        best.setdefault((push.layers, push.latents), push)
    return list(best.values())


def _as_choice(push: Push) -> Choice:
    assert push.latents is not None
    layer, *also = push.layers
    return Choice(
        layer=layer,
        also=also,
        selection=push.latents.selection,
        rule=push.latents.rule,
        k=push.latents.k,
        beta=push.latents.beta,
        dose=push.dose,
        span="response",
        half_life=push.shape.half_life,
        keep_norm=push.shape.keep_norm,
        clamp=push.shape.clamp,
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
        judged = self._judge(tasks, contents, self.effort.max_new_tokens, ask_about=False)
        bound = perplexity_bound([j.fluency.perplexity or math.nan for j in judged])
        if not math.isfinite(bound):
            raise ModelError(
                f"{self.engine.model.id} answers '{wording}' with nothing at all.",
                hint="An instruction that it doesn't follow in words can't be calibrated.",
            )
        return bound

    def score(
        self,
        pushes: Sequence[Push],
        contents: Sequence[str],
        bound: float,
        max_new_tokens: int,
        *,
        ask_about: bool = False,
    ) -> dict[Push, Objective]:
        """Every push on every text; all become rows of shared batches."""
        steerings = {push: steering_for(self.preset, self.placement, push) for push in pushes}
        tasks = [Task(text, text, steerings[push]) for push in pushes for text in contents]
        judged = self._judge(tasks, contents, max_new_tokens, ask_about=ask_about)
        n = len(contents)
        return {
            push: _objective(judged[i * n : (i + 1) * n], bound) for i, push in enumerate(pushes)
        }

    def _judge(
        self,
        tasks: Sequence[Task],
        contents: Sequence[str],
        max_new_tokens: int,
        *,
        ask_about: bool,
    ) -> list[Judged]:
        replies = make_replies(
            self.engine,
            tasks,
            sampling=Sampling(max_new_tokens=max_new_tokens),
            advance=self.advance,
        )
        return judge(
            self.engine, self.instruction, tasks, replies, contents=contents, ask_about=ask_about
        )


def _objective(judged: Sequence[Judged], bound: float) -> Objective:
    """(strict, loose and fluent), each as a share less what is degenerate beyond the limit."""
    n = len(judged)
    excess = max(0.0, sum(j.degenerate(bound) for j in judged) / n - MAX_DEGENERATE)
    return (
        sum(j.strict(bound) for j in judged) / n - excess,
        sum(j.loose and not j.degenerate(bound) for j in judged) / n - excess,
    )
