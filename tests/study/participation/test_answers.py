"""The two answers of a turn: in lock step, with their own histories, and steered where they say."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from made_up_studies import study
from running_study import SMALL, the_model
from scripted import ScriptedEngine
from tiny import tiny_library, tiny_model

from saif.core.steering import Steering
from saif.decoding import Sampling
from saif.engine.local import LocalEngine
from saif.engine.protocol import complete
from saif.errors import ModelError, PresetError, SteeringError
from saif.presets.controls import Controls
from saif.presets.instructions import place
from saif.presets.library import Library
from saif.presets.preset import LoadedPreset, ModelRef
from saif.study.design.plan import draw_plan, plan_seed
from saif.study.design.study_file import Study
from saif.study.participation.answers import AnswerGenerator, AnswerPair, EmptyAnswerError, Released
from saif.study.store.trials import Exchange, Trial


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return tiny_library(tmp_path, the_model())


def small(**changes: Any) -> Study:
    return study(**{**SMALL, **changes})


def trial_of(found: Study, **changes: Any) -> Trial:
    planned = draw_plan(found, plan_seed(found, 1, "0a"))[1]
    return replace(
        Trial(
            trial_id="t", participant_id="p", position=2, attempt=1, kind="main", retest_of=None,
            check=None, preset=planned.preset, prompts=planned.prompts, left=planned.left,
            right=planned.right, gen_seed=planned.gen_seed, state="running", vote_id="v",
        ),
        **changes,
    )  # fmt: skip


def scripted(
    library: Library, *pieces: list[str], **more: Any
) -> tuple[AnswerGenerator, ScriptedEngine]:
    engine = ScriptedEngine(LocalEngine(the_model()).model, pieces, **more)
    return AnswerGenerator(small(), library, engine), engine


def made(library: Library, *pieces: list[str], attempt: int = 1, **more: Any) -> AnswerPair:
    generator, _ = scripted(library, *pieces, **more)
    return generator.pair(trial_of(small(), attempt=attempt), [], "A message.")


def test_nothing_of_one_answer_is_shown_before_the_other_has_text(library: Library) -> None:
    answers = made(library, ["a", "b", "c"], ["", " ", "x", "y"])
    assert list(answers) == [Released("abc", " x"), Released("", "y"), Released("", "")]
    left, right = answers.answers()
    assert (left.text, right.text) == ("abc", " xy")
    assert left.ttft_ms == right.ttft_ms is not None
    assert [one.details["text_at_step"] for one in (left, right)] == [1, 3]


def test_from_then_on_both_are_released_step_by_step(library: Library) -> None:
    answers = made(library, list("abcd"), list("wxyz"))
    assert [(one.left, one.right) for one in answers][:4] == list(zip("abcd", "wxyz", strict=True))


@pytest.mark.parametrize("ends", ["end", "length"])
@pytest.mark.parametrize("pieces", [([], ["x"]), (["x", "y"], ["", " "]), ([], [])])
def test_an_empty_answer_is_a_failure_until_it_comes_for_the_third_time(
    library: Library, pieces: tuple[list[str], list[str]], ends: str
) -> None:
    for attempt in (1, 2):
        with pytest.raises(EmptyAnswerError):
            list(made(library, *pieces, attempt=attempt, ends=ends))
    answers = made(library, *pieces, attempt=3, ends=ends)
    list(answers)
    assert [one.text for one in answers.answers()] == ["".join(one) for one in pieces]


def test_a_steered_answer_that_was_not_steered_is_refused(library: Library) -> None:
    with pytest.raises(SteeringError, match="did not reach"):
        list(made(library, ["a"], ["b"], steered=False))


def test_an_answer_that_was_steered_and_should_not_be_is_refused(library: Library) -> None:
    with pytest.raises(SteeringError, match="did not reach the answer that it was meant for"):
        list(made(library, ["a"], ["b"], leaks=True))


def test_an_answer_that_never_ended_does_not_count(library: Library) -> None:
    with pytest.raises(ModelError, match="not finished"):
        list(made(library, ["a"], ["b"], ends=None))


def test_an_answer_that_was_stopped_does_not_count(library: Library) -> None:
    generator, _ = scripted(library, list("abcd"), list("wxyz"))
    with pytest.raises(ModelError, match="not finished"):
        list(generator.pair(trial_of(small()), [], "A message.", cancelled=lambda: True))


@pytest.mark.parametrize("left", ["steered", "unsteered"])
def test_each_answer_is_what_it_would_be_alone(library: Library, left: str) -> None:
    engine = LocalEngine(the_model())
    found = small(generation__temperature=1.0)
    right = {"steered": "unsteered", "unsteered": "steered"}[left]
    trial = trial_of(found, left=left, right=right)
    answers = AnswerGenerator(found, library, engine).pair(trial, [], "A message.")
    list(answers)
    assert answers.is_row_independent
    plain = answers.answers()[left == "steered"]
    assert plain.details["steered_positions"] == 0
    assert answers.answers()[left != "steered"].details["steered_positions"] == 8
    (alone,) = complete(engine, [answers._requests[left == "steered"]])
    assert alone.text == plain.text


def test_the_canary_notices_an_answer_that_changes_with_its_company(library: Library) -> None:
    generator, _ = scripted(library, ["a", "b"], ["x", "y", "z"])
    answers = generator.pair(trial_of(small()), [], "A message.")
    list(answers)
    # Alone, each gets the first of the two scripts, so the left one is what it was.
    assert not answers.is_row_independent


def test_each_arm_goes_on_from_its_own_history(library: Library) -> None:
    changes: dict[str, Any] = {"arms": ["prompted", "other"]}
    changes["other"] = {"preset": "question", "placement": "pre", "strength": 0.5}
    found = small(**changes)
    engine = ScriptedEngine(LocalEngine(the_model()).model, [["a"], ["b"]])
    trial = trial_of(found)
    list(AnswerGenerator(found, library, engine).pair(trial, [Exchange("one", "L1", "R1")], "two"))
    (requests,) = engine.asked
    prompted = requests[trial.right == "prompted"]
    other = requests[trial.left == "prompted"]
    own = "L1" if trial.left == "prompted" else "R1"
    wording = library.instruction("translate-french").main_wording
    assert [message.text for message in prompted.messages] == [
        place(wording, "one", "post"), own, place(wording, "two", "post"),
    ]  # fmt: skip
    assert prompted.steering is None
    assert other.messages[0].text == "one"
    assert other.steering is not None
    assert {request.sampling.seed for request in requests} == {trial.gen_seed}


def test_an_answer_is_steered_and_drawn_as_its_study_says(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Controls]] = []

    steering_with = LoadedPreset.steering_with

    def spy(preset: LoadedPreset, controls: Controls) -> Steering:
        asked.append((preset.preset.instruction, controls))
        return steering_with(preset, controls)

    monkeypatch.setattr(LoadedPreset, "steering_with", spy)
    drawn: dict[str, Any] = {"max_new_tokens": 5, "temperature": 0.5, "top_p": 0.25}
    weak = {"preset": "question", "placement": "pre", "strength": 0.5}
    found = small(arms=["other", "unsteered"], other=weak, generation=drawn)
    trial = trial_of(found)
    answers = AnswerGenerator(found, library, LocalEngine(the_model())).pair(
        trial, [], "A message."
    )
    list(answers)
    assert asked == [("question", Controls(placement="pre", strength=0.5))]
    for one in answers.answers():
        sampling = Sampling(**drawn, seed=trial.gen_seed)
        assert one.details["sampling"] == asdict(sampling)
        assert (one.details["applied"] is not None) == (one.arm == "other")
        if one.arm == "other":
            assert one.details["applied"] == {
                "layers": (1,),
                "k": 4,
                "strength": 0.5,
                "dose": 0.5,
                "span": "response",
                "latents": (10, 11, 12, 13),
                "shape": {"half_life": None, "keep_norm": False, "clamp": False},
            }


def test_presets_of_another_model_are_refused_before_anyone_comes(library: Library) -> None:
    stranger = LocalEngine(tiny_model(seed=1))
    with pytest.raises(PresetError, match="other weights"):
        AnswerGenerator(small(), library, stranger)


def test_the_model_named_in_the_details_is_the_one_that_answered(library: Library) -> None:
    answers = made(library, ["a"], ["b"])
    list(answers)
    model: ModelRef = LocalEngine(the_model()).model
    assert {one.details["model"] for one in answers.answers()} == {model.id}
