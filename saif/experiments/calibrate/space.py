"""The specs that a calibration tries: an initial grid, the neighbours of its best, schedules.

Nothing is run here, so that what a search will cost can be told beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saif.core.types import CONSTANT, Schedule
from saif.experiments.calibrate.budget import HALF_LIFE, SearchBudget
from saif.presets.spec import LatentSource, SteeringSpec

_NEIGHBOUR_DOSES = (0.75, 1, 1.3)
_FEWER_AND_MORE_LATENTS = (1, 40)
_NEIGHBOUR_BETAS = (-0.5, 0.5)

_LONG_HALF_LIFE = 48
_LASTING, _STEADY = 0.85, 0.7  # the share of the dose that one that fades less, or never, gets


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """What a search tries, and how much of it."""

    recipes: Sequence[LatentSource | None]
    """None is the mean difference."""
    semifinalists: int
    texts: int
    """Of the second round."""
    finalists: int


def search_spaces(n_layers: int, budget: SearchBudget) -> tuple[SearchSpace, SearchSpace]:
    """Mean difference, then the latents. The baseline's space is small, and its best must not be
    missed: every layer gets to the second round, on more texts, unless the budget is small."""
    n_baselines = min(n_layers, budget.baseline_semifinalists)
    return (
        SearchSpace([None], n_baselines, budget.third, budget.baseline_finalists),
        SearchSpace(budget.recipes, budget.semifinalists, budget.second, budget.finalists),
    )


def initial_grid(
    layers: Sequence[int], recipes: Sequence[LatentSource | None], doses: Sequence[float]
) -> list[SteeringSpec]:
    """The first round: every recipe at every layer with every dose."""
    fading = Schedule(half_life=HALF_LIFE)
    return [
        SteeringSpec(layer=layer, dose=dose, latents=recipe, schedule=fading)
        for layer in layers
        for recipe in recipes
        for dose in doses
    ]


def final_variants(
    finalists: Sequence[SteeringSpec], ranking: Sequence[SteeringSpec]
) -> list[SteeringSpec]:
    """The last round: each fading finalist as it is and on every other schedule; latents also at
    the next best layer as well."""
    found = []
    for spec in finalists:
        found += [
            spec,
            replace(_at(spec, _LASTING), schedule=Schedule(half_life=_LONG_HALF_LIFE)),
            replace(_at(spec, _STEADY), schedule=CONSTANT),
            replace(spec, schedule=replace(spec.schedule, keep_norm=True)),
        ]
        if spec.latents is not None:
            found.append(replace(spec, schedule=replace(spec.schedule, clamp=True)))
            others = [other.layer for other in ranking if other.layer not in spec.layers]
            found += [
                replace(spec, extra_layers=(*spec.extra_layers, layer)) for layer in others[:1]
            ]
    return found


def neighbours(specs: Sequence[SteeringSpec]) -> list[SteeringSpec]:
    """Each spec with a smaller and a larger dose and with fewer and more latents; the best one
    also with β to either side."""
    found = []
    for number, spec in enumerate(specs):
        found += [_at(spec, factor) for factor in _NEIGHBOUR_DOSES]
        if spec.latents is None:
            continue
        latents = [replace(spec.latents, k=k) for k in _FEWER_AND_MORE_LATENTS]
        if number == 0:
            latents += [replace(spec.latents, beta=beta) for beta in _NEIGHBOUR_BETAS]
        found += [replace(spec, latents=changed) for changed in latents]
    return list(dict.fromkeys(found))


def _at(spec: SteeringSpec, factor: float) -> SteeringSpec:
    return replace(spec, dose=round(spec.dose * factor, 3))


def distinct(specs: Sequence[SteeringSpec]) -> list[SteeringSpec]:
    """The first of every layer and recipe: two doses of one would crowd out the others."""
    first: dict[tuple[tuple[int, ...], LatentSource | None], SteeringSpec] = {}
    for spec in specs:
        first.setdefault((spec.layers, spec.latents), spec)
    return list(first.values())


def replies_made(n_layers: int, budget: SearchBudget) -> int:
    """How many replies a search makes; a little fewer where neighbours coincide."""
    n = budget.third  # the instruction in words
    for space in search_spaces(n_layers, budget):
        first = initial_grid(range(n_layers), space.recipes, budget.doses)
        ranking = distinct(first)
        second = neighbours(ranking[: space.semifinalists])
        third = final_variants(second[: space.finalists], ranking)
        n += len(first) * budget.first + len(second) * space.texts + len(third) * budget.third
    return n
