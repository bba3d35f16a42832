from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, cast

import pytest
from made_up import instructions, planted_preset, sentences

from saif.core.fluency import Fluency
from saif.core.types import Sampling, Schedule
from saif.engine.local import LocalEngine
from saif.engine.protocol import Reply
from saif.errors import ModelError
from saif.experiments.calibrate import search as module
from saif.experiments.calibrate.budget import BUDGETS, SearchBudget
from saif.experiments.calibrate.search import Calibration, calibrate
from saif.experiments.calibrate.space import replies_made
from saif.experiments.evaluate.score import CheckedReply, Task
from saif.presets.preset import LoadedPreset
from saif.presets.spec import LatentSource, SteeringSpec

BUDGET = SearchBudget(first=2, first_tokens=3, second=4, third=5, max_new_tokens=7)
CONTENTS = sentences()[:9]
CONTRAST = LatentSource(selection="contrast", rule="delta", k=15)
FADING = Schedule(half_life=16)
BASELINES, LATENTS = (1, 2, 3), (4, 5, 6)
"""The rounds of each among all that is tried."""


@dataclass(frozen=True)
class Outcome:
    """How many of a spec's replies are what. A reply is strict if it is all three."""

    loose: int = 0
    degenerate: int = 0
    about: int = 99


Script = Callable[[SteeringSpec], Outcome]


@dataclass
class Rounds:
    """A search whose outcome is scripted: what a spec gets in a round is looked up."""

    engine: LocalEngine
    preset: LoadedPreset
    script: Script
    final: Script
    contents: list[list[str]] = field(default_factory=list)
    specs: list[list[SteeringSpec]] = field(default_factory=list)
    """What is tried in turn: the instruction in words, then three rounds of mean differences and
    three of latents."""
    tokens: list[int] = field(default_factory=list)
    relevance_checked: list[int] = field(default_factory=list)
    """How many replies at a time."""
    advanced: int = 0
    perplexity: float = 5.0

    def run(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Calibration:
        monkeypatch.setattr(LoadedPreset, "assemble", lambda preset, placement, spec: spec)
        monkeypatch.setattr(module, "make_replies", self._make_replies)
        monkeypatch.setattr(module, "check_form", self._check_form)
        monkeypatch.setattr(module, "check_relevance", self._check_relevance)
        (asked,) = instructions("question")
        return calibrate(
            self.engine,
            self.preset,
            asked,
            "post",
            CONTENTS,
            BUDGET,
            advance=self._advance,
            **options,
        )

    def _advance(self, count: int) -> None:
        self.advanced += count

    def _make_replies(
        self, engine: Any, tasks: Sequence[Task], *, sampling: Sampling, advance: Any
    ) -> list[Reply]:
        advance(len(tasks))
        self.tokens.append(sampling.max_new_tokens)
        return [Reply("x", (1,), 0, "end")] * len(tasks)

    def _check_form(
        self, engine: Any, asked: Any, tasks: Sequence[Task], replies: Any
    ) -> list[CheckedReply]:
        early = self.tokens[-1] == BUDGET.first_tokens
        specs = list(dict.fromkeys(task.steering for task in tasks))
        self.contents.append(list(dict.fromkeys(task.content for task in tasks)))
        self.specs.append([spec for spec in specs if spec])  # type: ignore[misc]
        checked, counted = [], dict.fromkeys(specs, 0)
        for task in tasks:
            spec: Any = task.steering
            i = counted[spec]
            counted[spec] += 1
            outcome = (self.script if early else self.final)(spec) if spec else Outcome(9)
            flow = Fluency(1.0, 0.0, i < outcome.degenerate, self.perplexity)
            reply = _Played("x", (1,), 0, "end", about=i < outcome.about)
            checked.append(CheckedReply(task.content, reply, i < outcome.loose, flow, True))
        return checked

    def _check_relevance(
        self, engine: Any, asked: Any, checked: Sequence[CheckedReply], contents: Any
    ) -> list[CheckedReply]:
        # Replies are told distinct from those to the other texts of their round, and no others.
        assert list(contents) == list(dict.fromkeys(j.content for j in checked))
        self.relevance_checked.append(len(checked))
        return [replace(j, relevant=cast(_Played, j.reply).about) for j in checked]


@dataclass(frozen=True, slots=True)
class _Played(Reply):
    about: bool = True


@pytest.fixture
def search(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Calibration, Rounds]]:
    def run(script: Script, final: Script | None = None) -> tuple[Calibration, Rounds]:
        rounds = Rounds(engine, planted_preset(engine), script, final or script)
        return rounds.run(monkeypatch), rounds

    return run


def test_the_best_of_the_last_rounds_becomes_the_choice(search: Any) -> None:
    found = SteeringSpec(layer=3, dose=0.5, latents=CONTRAST, schedule=FADING)
    best = replace(found, latents=replace(CONTRAST, beta=0.5))

    def first(spec: SteeringSpec) -> Outcome:
        return Outcome(2) if spec == found else Outcome(0)

    def final(spec: SteeringSpec) -> Outcome:
        return Outcome(5) if spec == best else Outcome(1)

    calibration, _ = search(first, final)
    choice = calibration.choice
    assert (choice.layer, choice.dose, choice.span) == (3, 0.5, "response")
    assert choice.latents == LatentSource(selection="contrast", rule="delta", k=15, beta=0.5)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Outcome(2, about=2), Outcome(4, about=1)),  # strict before loose
        (Outcome(4, about=0), Outcome(3, about=0)),  # then loose
        (Outcome(3, about=0), Outcome(4, degenerate=1, about=0)),  # which counts if fluent
        (Outcome(3), Outcome(4, degenerate=1)),  # too many degenerate count against it
    ],
)
def test_strict_comes_before_loose_and_degenerate_is_failure(
    search: Any, better: Outcome, worse: Outcome
) -> None:
    calibration, _ = search(lambda spec: better if spec.schedule.keep_norm else worse)
    assert calibration.choice.schedule.keep_norm
    assert calibration.mean_difference.schedule.keep_norm


def test_equally_good_means_the_smaller_dose(search: Any) -> None:
    calibration, rounds = search(lambda spec: Outcome(2))
    steady = round(0.225 * 0.7, 3)
    assert calibration.choice.dose == calibration.mean_difference.dose == steady
    tried = {(spec.schedule.half_life, spec.dose) for spec in rounds.specs[LATENTS[2]]}
    assert tried == {(16, 0.225), (48, round(0.225 * 0.85, 3)), (None, steady)}
    # A finalist more, since two layers give two at the smallest dose.
    more = {(16, 0.3), (48, round(0.3 * 0.85, 3)), (None, round(0.3 * 0.7, 3))}
    baselines = {(spec.schedule.half_life, spec.dose) for spec in rounds.specs[BASELINES[2]]}
    assert baselines == tried | more


def test_the_finalists_are_tried_in_every_shape(search: Any) -> None:
    _, rounds = search(lambda spec: Outcome(2))
    last = rounds.specs[LATENTS[2]]
    latents = [spec for spec in last if spec.latents == last[0].latents]
    plain = {Schedule(), FADING, Schedule(half_life=48), Schedule(half_life=16, keep_norm=True)}
    assert {spec.schedule for spec in latents} == {*plain, Schedule(half_life=16, clamp=True)}
    assert {spec.layers for spec in latents} == {(1,), (1, 3)}
    assert {spec.schedule for spec in rounds.specs[BASELINES[2]]} == plain


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        (Schedule(), (1,)),
        (Schedule(half_life=48), (1,)),
        (Schedule(half_life=16, keep_norm=True), (1,)),
        (Schedule(half_life=16, clamp=True), (1,)),
        (Schedule(half_life=16), (1, 3)),
    ],
)
def test_the_best_shape_becomes_the_choice(
    search: Any, shape: Schedule, layers: tuple[int, ...]
) -> None:
    def final(spec: SteeringSpec) -> Outcome:
        return Outcome(3 if (spec.schedule, spec.layers) == (shape, layers) else 1)

    calibration, _ = search(lambda spec: Outcome(2), final)
    spec = calibration.choice
    assert (spec.schedule, spec.layers) == (shape, layers)
    if not shape.clamp and layers == (1,):
        baseline = calibration.mean_difference
        assert baseline.schedule == shape


def test_mean_difference_goes_through_the_same_rounds(search: Any) -> None:
    def outcome(spec: SteeringSpec) -> Outcome:
        wanted = ((3,), 0.5) if spec.latents is None else ((1,), 0.3)
        return Outcome(2) if (spec.layers, spec.dose) == wanted else Outcome(0)

    calibration, rounds = search(outcome)
    baseline = SteeringSpec(layer=3, dose=0.5, schedule=FADING)
    assert calibration.mean_difference == baseline
    assert calibration.choice.layer == 1
    for initial_grid, middle in (BASELINES[:2], LATENTS[:2]):
        for layer in (1, 3):
            doses = {p.dose for p in rounds.specs[initial_grid] if p.layers == (layer,)}
            assert doses == {0.3, 0.5, 0.75}
        assert {p.schedule for p in rounds.specs[initial_grid] + rounds.specs[middle]} == {FADING}
    assert {p.layers for p in rounds.specs[BASELINES[1]]} == {(1,), (3,)}
    tried = {(p.layers, p.dose) for p in rounds.specs[BASELINES[1]]}
    assert {dose for layers, dose in tried if layers == (3,)} == {0.375, 0.5, 0.65}
    assert not any(spec.latents for number in BASELINES for spec in rounds.specs[number])
    latents = [spec.latents for number in LATENTS for spec in rounds.specs[number]]
    assert all(latents)
    assert {found.k for found in latents if found} == {1, 15, 40}
    assert {found.beta for found in latents if found} == {-0.5, 0, 0.5}


def test_mean_difference_can_be_searched_alone(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(engine, planted_preset(engine), lambda _: Outcome(2), lambda _: Outcome(2))
    calibration = rounds.run(monkeypatch, search="rival")
    assert calibration.choice == rounds.preset.preset.placements["post"].choice
    assert len(rounds.specs) == 1 + len(BASELINES)
    assert calibration.mean_difference.dose == round(0.225 * 0.7, 3)


def test_semifinalists_differ_in_more_than_their_dose(search: Any) -> None:
    def outcome(spec: SteeringSpec) -> Outcome:
        if spec.latents == CONTRAST and spec.layers == (3,):
            return Outcome(2)
        return Outcome(1) if spec.layers == (1,) and spec.dose == 0.5 else Outcome(0)

    _, rounds = search(outcome)
    middle = rounds.specs[LATENTS[1]]
    assert {spec.layers for spec in middle} == {(1,), (3,)}
    assert {spec.dose for spec in middle if spec.layers == (3,)} == {0.3, 0.225, 0.39}


def test_each_round_sees_more_texts_than_the_one_before(search: Any) -> None:
    _, rounds = search(lambda spec: Outcome(2))
    middle = rounds.specs[LATENTS[1]]
    assert len({(p.layers, p.latents.selection, p.latents.rule) for p in middle if p.latents}) == 3
    assert rounds.contents == [CONTENTS[:n] for n in (5, 2, 5, 5, 2, 4, 5)]
    assert rounds.tokens == [7, 3, 7, 7, 3, 7, 7]
    tried = [len(specs) for specs in rounds.specs]
    texts = [0, 2, 5, 5, 2, 4, 5]
    assert rounds.advanced == 5 + sum(n * m for n, m in zip(texts, tried, strict=True))


def test_what_a_search_costs_is_known_beforehand(search: Any) -> None:
    def outcome(spec: SteeringSpec) -> Outcome:
        return Outcome(spec.layers[0] - 1)  # a different layer each for the best ones

    _, rounds = search(outcome)
    assert rounds.advanced == replies_made(2, BUDGET)


def test_a_quick_search_takes_a_third_of_the_work() -> None:
    quick, thorough = BUDGETS["quick", "sentence"], BUDGETS["thorough", "sentence"]
    assert 3 * replies_made(4, quick) <= replies_made(4, thorough)
    assert 2 * quick.identify_on <= thorough.identify_on


def test_only_pushes_that_can_still_win_are_asked_whether_they_are_about_their_contents(
    search: Any,
) -> None:
    _, rounds = search(lambda spec: Outcome(5 if spec.schedule == Schedule() else 3, about=4))
    best = 4 * len(CONTENTS[:5])
    assert rounds.relevance_checked == [best, best]  # of 12 baselines and 12 latents
    _, rounds = search(lambda spec: Outcome(5 if spec.schedule == Schedule() else 3, about=2))
    assert sum(rounds.relevance_checked) == 5 * sum(
        len(rounds.specs[n]) for n in (BASELINES[2], LATENTS[2])
    )


@pytest.mark.parametrize("seed", range(20))
def test_not_asking_the_others_changes_no_winner(search: Any, seed: int) -> None:
    draws: dict[SteeringSpec, Outcome] = {}

    def outcome(spec: SteeringSpec) -> Outcome:
        draw = Random(f"{seed} {spec}")
        return draws.setdefault(spec, Outcome(*(draw.randrange(6) for _ in range(3))))

    def objective(spec: SteeringSpec) -> tuple[float, float, float]:
        """Of a spec with a number of replies that are loose, degenerate and about."""
        found = draws[spec]
        fluent = max(0, found.loose - found.degenerate)
        strict = max(0, min(found.loose, found.about) - found.degenerate)
        excess = max(0, found.degenerate / 5 - 0.15)
        return round(strict / 5 - excess, 9), round(fluent / 5 - excess, 9), -spec.dose

    calibration, rounds = search(outcome)
    best = max(rounds.specs[LATENTS[2]], key=objective)
    assert objective(calibration.choice) == objective(best)


def test_the_bound_comes_from_the_replies_to_the_instruction_in_words(search: Any) -> None:
    calibration, rounds = search(lambda spec: Outcome(2))
    assert rounds.specs[0] == []  # prompted, not steered
    assert calibration.bound == 10  # twice the only perplexity there is


def test_a_model_that_answers_nothing_is_named(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Rounds(engine, planted_preset(engine), lambda _: Outcome(), lambda _: Outcome())
    nothing.perplexity = float("nan")
    with pytest.raises(ModelError, match="with nothing at all"):
        nothing.run(monkeypatch)
