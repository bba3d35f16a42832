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
from dataclasses import dataclass, replace

from saif.core.fluency import perplexity_bound
from saif.core.spec import Placement, Sampling, Shape
from saif.engine import LocalEngine
from saif.errors import ModelError, PresetError
from saif.experiments.scoring import Judged, Task, ask_about, judge_form, make_replies
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
_DOSES = (0.3, 0.5, 0.75)
_NEIGHBOUR_DOSES = (0.75, 1, 1.3)
_FEWER_AND_MORE_LATENTS = (1, 40)
_NEIGHBOUR_BETAS = (-0.5, 0.5)
_SEMIFINALISTS, _FINALISTS = 3, 2
_RIVAL_FINALISTS = 3

HALF_LIFE = 16
"""Of a fading push, in tokens. Steady pushes have sent most replies into loops, so the search
starts with fading ones."""

_LONG_HALF_LIFE = 48
_LASTING, _STEADY = 0.85, 0.7  # what a push that fades less, or never, starts with of the dose
_ASKED_TOGETHER = 4

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
    latents: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """The best choice for one placement, judged on `contents` only. Without `latents` only mean
    difference is searched, and the preset's own choice stays."""
    trial = _Trial(engine, preset, instruction, placement, effort, advance)
    contents = contents[: effort.third]
    bound = trial.perplexity_bound(contents)
    layers = preset.preset.placements[placement].layer_numbers

    def search(
        recipes: Sequence[LatentPush | None],
        n_semifinalists: int,
        second_texts: int,
        n_finalists: int,
    ) -> Push:
        opening = [
            Push(layers=(layer,), dose=dose, latents=recipe, shape=Shape(half_life=HALF_LIFE))
            for layer in layers
            for recipe in recipes
            for dose in _DOSES
        ]
        first = trial.score(opening, contents[: effort.first], bound, effort.first_tokens)
        ranking = _apart(_best(opening, first, len(opening)))
        middle = _neighbours(ranking[:n_semifinalists])
        second = trial.score(middle, contents[:second_texts], bound, effort.max_new_tokens)
        finalists = _best(middle, second, n_finalists)
        closing = [shaped for push in finalists for shaped in _shapes(push, ranking)]
        return trial.strictest(closing, contents, bound)

    # Its field is small, and its best must not be missed: every layer gets to the second round.
    rival = search([None], len(layers), effort.third, _RIVAL_FINALISTS)
    choice = preset.preset.placements[placement].choice
    if latents:
        choice = _as_choice(search(_RECIPES, _SEMIFINALISTS, effort.second, _FINALISTS))
    best_rival = MeanDifferenceChoice(
        layer=rival.layers[0],
        dose=rival.dose,
        half_life=rival.shape.half_life,
        keep_norm=rival.shape.keep_norm,
    )
    return Calibration(choice, best_rival, bound)


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
    """Each push with a smaller and a larger dose and with fewer and more latents; the best one
    also with β to either side."""
    found = []
    for number, push in enumerate(pushes):
        found += [_at(push, factor) for factor in _NEIGHBOUR_DOSES]
        if push.latents is None:
            continue
        latents = [replace(push.latents, k=k) for k in _FEWER_AND_MORE_LATENTS]
        if number == 0:
            latents += [replace(push.latents, beta=beta) for beta in _NEIGHBOUR_BETAS]
        found += [replace(push, latents=changed) for changed in latents]
    return list(dict.fromkeys(found))


def _shapes(push: Push, ranking: Sequence[Push]) -> list[Push]:
    """A fading push as it is and in every other shape; latents also at the next best layer as
    well."""
    found = [
        push,
        replace(_at(push, _LASTING), shape=Shape(half_life=_LONG_HALF_LIFE)),
        replace(_at(push, _STEADY), shape=Shape()),
        replace(push, shape=replace(push.shape, keep_norm=True)),
    ]
    if push.latents is not None:
        found.append(replace(push, shape=replace(push.shape, clamp=True)))
        others = (p.layers[0] for p in ranking if p.layers[0] not in push.layers)
        found += [replace(push, layers=(*push.layers, layer)) for layer in [*others][:1]]
    return found


def _at(push: Push, factor: float) -> Push:
    return replace(push, dose=round(push.dose * factor, 3))


Objective = tuple[float, float]


def _best(pushes: Sequence[Push], scores: Mapping[Push, Objective], n: int) -> list[Push]:
    return sorted(pushes, key=lambda push: (scores[push], -push.dose), reverse=True)[:n]


def _apart(pushes: Sequence[Push]) -> list[Push]:
    """The first of every layer and recipe: two doses of one would crowd out the others."""
    first: dict[tuple[tuple[int, ...], LatentPush | None], Push] = {}
    for push in pushes:
        first.setdefault((push.layers, push.latents), push)
    return list(first.values())


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
        judged = self._judge(tasks, self.effort.max_new_tokens)
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
        """Every push on every text, all taken to be about their contents."""
        judged = self._judge_each(pushes, contents, max_new_tokens)
        return {push: _objective(judged[push], bound) for push in pushes}

    def strictest(self, pushes: Sequence[Push], contents: Sequence[str], bound: float) -> Push:
        """The best push on `contents`, once it is known which replies are about them.

        Knowing can only lower an objective. So the most promising are asked first, and asking ends
        when the best of those can't be beaten any more.
        """
        judged = self._judge_each(pushes, contents, self.effort.max_new_tokens)
        hopes = {push: _objective(judged[push], bound) for push in pushes}
        ranking = _best(pushes, hopes, len(pushes))
        scores: dict[Push, Objective] = {}
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
        self, pushes: Sequence[Push], contents: Sequence[str], max_new_tokens: int
    ) -> dict[Push, list[Judged]]:
        """All become rows of shared batches."""
        steerings = [steering_for(self.preset, self.placement, push) for push in pushes]
        tasks = [Task(text, text, steering) for steering in steerings for text in contents]
        return _split(pushes, self._judge(tasks, max_new_tokens))

    def _judge(self, tasks: Sequence[Task], max_new_tokens: int) -> list[Judged]:
        sampling = Sampling(max_new_tokens=max_new_tokens)
        replies = make_replies(self.engine, tasks, sampling=sampling, advance=self.advance)
        return judge_form(self.engine, self.instruction, tasks, replies)


def _split(pushes: Sequence[Push], judged: Sequence[Judged]) -> dict[Push, list[Judged]]:
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
