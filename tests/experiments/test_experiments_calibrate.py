from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from made_up import instructions, planted_preset, sentences

from saif.core.fluency import Fluency
from saif.core.spec import Sampling, Shape
from saif.engine import LocalEngine, Reply
from saif.errors import ModelError
from saif.experiments import calibrate as module
from saif.experiments.calibrate import Calibration, Effort, calibrate
from saif.experiments.scoring import Judged, Task
from saif.presets.preset import LoadedPreset, MeanDifferenceChoice
from saif.presets.push import LatentPush, Push, choice_push

EFFORT = Effort(first=2, first_tokens=3, second=4, third=5, max_new_tokens=7)
CONTENTS = sentences()[:9]
CONTRAST = LatentPush(selection="contrast", rule="delta", k=15)


@dataclass(frozen=True)
class Outcome:
    """How many of a push's replies are what. A reply is strict if it is all three."""

    loose: int = 0
    degenerate: int = 0
    about: int = 99


Script = Callable[[Push], Outcome]


@dataclass
class Rounds:
    """A search whose outcome is scripted: what a push gets in a round is looked up."""

    engine: LocalEngine
    preset: LoadedPreset
    script: Script
    final: Script
    contents: list[list[str]] = field(default_factory=list)
    pushes: list[list[Push]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    asked_about: list[bool] = field(default_factory=list)
    advanced: int = 0
    perplexity: float = 5.0

    def run(self, monkeypatch: pytest.MonkeyPatch) -> Calibration:
        monkeypatch.setattr(module, "steering_for", lambda preset, placement, push: push)
        monkeypatch.setattr(module, "make_replies", self._make_replies)
        monkeypatch.setattr(module, "judge", self._judge)
        (asked,) = instructions("question")
        return calibrate(
            self.engine, self.preset, asked, "post", CONTENTS, EFFORT, advance=self._advance
        )

    def _advance(self, count: int) -> None:
        self.advanced += count

    def _make_replies(
        self, engine: Any, tasks: Sequence[Task], *, sampling: Sampling, advance: Any
    ) -> list[Reply]:
        advance(len(tasks))
        self.tokens.append(sampling.max_new_tokens)
        return [Reply("x", (1,), 0, "end")] * len(tasks)

    def _judge(
        self, engine: Any, asked: Any, tasks: Sequence[Task], replies: Any, *, contents: Any,
        ask_about: bool,
    ) -> list[Judged]:  # fmt: skip
        self.asked_about.append(ask_about)
        early = self.tokens[-1] == EFFORT.first_tokens
        # Replies are told apart from those to the other texts of their round, and no others.
        assert list(contents) == list(dict.fromkeys(task.content for task in tasks))
        return self._play(tasks, self.script if early else self.final)

    def _play(self, tasks: Sequence[Task], script: Script) -> list[Judged]:
        pushes = list(dict.fromkeys(task.steering for task in tasks))
        self.contents.append(list(dict.fromkeys(task.content for task in tasks)))
        self.pushes.append([push for push in pushes if push])  # type: ignore[misc]
        judged, counted = [], dict.fromkeys(pushes, 0)
        for task in tasks:
            push: Any = task.steering
            i = counted[push]
            counted[push] += 1
            outcome = script(push) if push else Outcome(9)
            flow = Fluency(1.0, 0.0, i < outcome.degenerate, self.perplexity)
            about = i < outcome.about
            reply = Reply("x", (1,), 0, "end")
            judged.append(Judged(task.content, reply, i < outcome.loose, flow, about))
        return judged


@pytest.fixture
def search(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Calibration, Rounds]]:
    def run(script: Script, final: Script | None = None) -> tuple[Calibration, Rounds]:
        rounds = Rounds(engine, planted_preset(engine), script, final or script)
        return rounds.run(monkeypatch), rounds

    return run


def test_the_best_of_the_last_rounds_becomes_the_choice(search: Any) -> None:
    found = Push(layers=(3,), dose=0.45, latents=CONTRAST)
    best = replace(found, latents=replace(CONTRAST, beta=0.5))

    def first(push: Push) -> Outcome:
        return Outcome(2) if push == found else Outcome(0)

    def final(push: Push) -> Outcome:
        return Outcome(5) if push == best else Outcome(1)

    calibration, _ = search(first, final)
    choice = calibration.choice
    assert (choice.layer, choice.selection, choice.rule) == (3, "contrast", "delta")
    assert (choice.k, choice.beta, choice.dose, choice.span) == (15, 0.5, 0.45, "response")


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
    def first(push: Push) -> Outcome:
        return Outcome(2) if push.layers == (1,) and push.dose in (0.45, 0.4) else Outcome(0)

    def final(push: Push) -> Outcome:
        return better if push.dose in (0.585, 0.52) else worse

    calibration, _ = search(first, final)
    assert (calibration.choice.dose, calibration.mean_difference.dose) == (0.585, 0.52)


def test_equally_good_means_the_smaller_dose(search: Any) -> None:
    calibration, _ = search(lambda push: Outcome(2))
    assert calibration.choice.dose == calibration.mean_difference.dose == 0.188
    rounds = search(lambda push: Outcome(2))[1]
    assert {push.dose for push in rounds.pushes[2]} == {0.25, 0.188, 0.325}


def test_the_finalists_are_tried_in_every_shape(search: Any) -> None:
    calibration, rounds = search(lambda push: Outcome(2))
    last = rounds.pushes[3]
    latents = [push for push in last if push.latents and push.latents == last[0].latents]
    assert {push.shape for push in latents} == {
        Shape(),
        Shape(half_life=16),
        Shape(keep_norm=True),
        Shape(clamp=True),
    }
    assert {push.layers for push in latents} == {(1,), (1, 3)}
    harder = {push.dose for push in latents if push.shape.half_life}
    assert harder == {0.188, 0.244}
    rivals = [push for push in last if push.latents is None]
    assert {push.shape for push in rivals} == {Shape(), Shape(half_life=16), Shape(keep_norm=True)}
    assert calibration.choice.half_life is None  # equally good: as plain as it can be


@pytest.mark.parametrize(
    ("shape", "layers"),
    [
        (Shape(half_life=16), (1,)),
        (Shape(keep_norm=True), (1,)),
        (Shape(clamp=True), (1,)),
        (Shape(), (1, 3)),
    ],
)
def test_the_best_shape_becomes_the_choice(
    search: Any, shape: Shape, layers: tuple[int, ...]
) -> None:
    def final(push: Push) -> Outcome:
        return Outcome(3 if (push.shape, push.layers) == (shape, layers) else 1)

    calibration, _ = search(lambda push: Outcome(2), final)
    push = choice_push(calibration.choice)
    assert (push.shape, push.layers) == (shape, layers)
    if not shape.clamp and layers == (1,):
        rival = calibration.mean_difference
        assert (rival.half_life, rival.keep_norm) == (shape.half_life, shape.keep_norm)


def test_mean_difference_goes_through_the_same_rounds(search: Any) -> None:
    def outcome(push: Push) -> Outcome:
        wanted = ((3,), 0.4) if push.latents is None else ((1,), 0.25)
        return Outcome(2) if (push.layers, push.dose) == wanted else Outcome(0)

    calibration, rounds = search(outcome)
    assert calibration.mean_difference == MeanDifferenceChoice(layer=3, dose=0.4)
    assert calibration.choice.layer == 1
    opening, closing = rounds.pushes[1:3]
    for layer in (1, 3):
        doses = [p.dose for p in opening if p.layers == (layer,) and p.latents is None]
        assert sorted(doses) == [0.25, 0.4, 0.6]
    tries = {(p.layers, p.dose) for p in closing if p.latents is None}
    assert {dose for layers, dose in tries if layers == (3,)} == {0.3, 0.4, 0.52}
    assert {dose for layers, dose in tries if layers == (1,)} == {0.188, 0.25, 0.325}
    tried = {p.latents for p in closing if p.latents}
    assert {latents.k for latents in tried} == {15, 40}
    assert {latents.beta for latents in tried} == {-0.5, 0, 0.5}


def test_finalists_differ_in_more_than_their_dose(search: Any) -> None:
    def outcome(push: Push) -> Outcome:
        if push.latents == CONTRAST and push.layers == (3,):
            return Outcome(2)
        return Outcome(1) if push.layers == (1,) and push.dose == 0.45 else Outcome(0)

    _, rounds = search(outcome)
    closing = [push for push in rounds.pushes[2] if push.latents]
    assert {push.layers for push in closing} == {(1,), (3,)}
    assert {push.dose for push in closing if push.layers == (3,)} == {0.25, 0.188, 0.325}


def test_each_round_sees_more_texts_than_the_one_before(search: Any) -> None:
    _, rounds = search(lambda push: Outcome(2))
    assert rounds.contents == [CONTENTS[:n] for n in (5, 2, 4, 5)]
    assert rounds.tokens == [7, 3, 7, 7]
    assert rounds.asked_about == [False, False, False, True]
    tried = [len(pushes) for pushes in rounds.pushes]
    assert rounds.advanced == 5 + 2 * tried[1] + 4 * tried[2] + 5 * tried[3]


def test_the_bound_comes_from_the_replies_to_the_instruction_in_words(search: Any) -> None:
    calibration, rounds = search(lambda push: Outcome(2))
    assert rounds.pushes[0] == []  # prompted, not steered
    assert calibration.bound == 10  # twice the only perplexity there is


def test_a_model_that_answers_nothing_is_named(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Rounds(engine, planted_preset(engine), lambda _: Outcome(), lambda _: Outcome())
    nothing.perplexity = float("nan")
    with pytest.raises(ModelError, match="with nothing at all"):
        nothing.run(monkeypatch)
