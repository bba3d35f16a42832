"""The pushes that a calibration tries: an initial grid, the neighbours of its best, schedules.

Nothing is run here, so that what a search will cost can be told beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saif.core.types import Schedule
from saif.experiments.calibrate.budget import HALF_LIFE, SearchBudget
from saif.presets.spec import LatentPush, SteeringSpec

_NEIGHBOUR_DOSES = (0.75, 1, 1.3)
_FEWER_AND_MORE_LATENTS = (1, 40)
_NEIGHBOUR_BETAS = (-0.5, 0.5)

_LONG_HALF_LIFE = 48
_LASTING, _STEADY = 0.85, 0.7  # what a push that fades less, or never, starts with of the dose


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What a search tries. recipes: None is mean difference. texts: of the second round."""

    recipes: Sequence[LatentPush | None]
    semifinalists: int
    texts: int
    finalists: int


def search_spaces(n_layers: int, budget: SearchBudget) -> tuple[SearchSpace, SearchSpace]:
    """Mean difference, then the latents. The rival's field is small, and its best must not be
    missed: every layer gets to the second round, on more texts, unless the budget is less."""
    n_rivals = min(n_layers, budget.baseline_semifinalists)
    return (
        SearchSpace([None], n_rivals, budget.third, budget.baseline_finalists),
        SearchSpace(budget.recipes, budget.semifinalists, budget.second, budget.finalists),
    )


def initial_grid(
    layers: Sequence[int], recipes: Sequence[LatentPush | None], doses: Sequence[float]
) -> list[SteeringSpec]:
    """The first round: every recipe at every layer with every dose."""
    shape = Schedule(half_life=HALF_LIFE)
    return [
        SteeringSpec(layers=(layer,), dose=dose, latents=recipe, shape=shape)
        for layer in layers
        for recipe in recipes
        for dose in doses
    ]


def final_variants(
    finalists: Sequence[SteeringSpec], ranking: Sequence[SteeringSpec]
) -> list[SteeringSpec]:
    """The last round: the finalists in every shape."""
    return [shaped for push in finalists for shaped in _shapes(push, ranking)]


def neighbours(pushes: Sequence[SteeringSpec]) -> list[SteeringSpec]:
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


def _shapes(push: SteeringSpec, ranking: Sequence[SteeringSpec]) -> list[SteeringSpec]:
    """A fading push as it is and in every other shape; latents also at the next best layer as
    well."""
    found = [
        push,
        replace(_at(push, _LASTING), shape=Schedule(half_life=_LONG_HALF_LIFE)),
        replace(_at(push, _STEADY), shape=Schedule()),
        replace(push, shape=replace(push.shape, keep_norm=True)),
    ]
    if push.latents is not None:
        found.append(replace(push, shape=replace(push.shape, clamp=True)))
        others = (p.layers[0] for p in ranking if p.layers[0] not in push.layers)
        found += [replace(push, layers=(*push.layers, layer)) for layer in [*others][:1]]
    return found


def _at(push: SteeringSpec, factor: float) -> SteeringSpec:
    return replace(push, dose=round(push.dose * factor, 3))


def distinct(pushes: Sequence[SteeringSpec]) -> list[SteeringSpec]:
    """The first of every layer and recipe: two doses of one would crowd out the others."""
    first: dict[tuple[tuple[int, ...], LatentPush | None], SteeringSpec] = {}
    for push in pushes:
        first.setdefault((push.layers, push.latents), push)
    return list(first.values())


def replies_made(n_layers: int, budget: SearchBudget, *, latents: bool = True) -> int:
    """How many replies a search makes; a little fewer where neighbours coincide."""
    n = budget.third  # the instruction in words
    for field in search_spaces(n_layers, budget)[: 1 + latents]:
        first = initial_grid(range(n_layers), field.recipes, budget.doses)
        ranking = distinct(first)
        second = neighbours(ranking[: field.semifinalists])
        third = final_variants(second[: field.finalists], ranking)
        n += len(first) * budget.first + len(second) * field.texts + len(third) * budget.third
    return n
