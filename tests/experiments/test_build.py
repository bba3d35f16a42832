from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import planted_preset, planted_sae

from saif.core.types import PLACEMENTS
from saif.engine.local import LocalEngine
from saif.errors import InputError, PresetError, SaeError
from saif.experiments import build
from saif.experiments.baselines import CONDITIONS
from saif.experiments.build import calibrate_presets, identify_presets, make_presets, work_left
from saif.experiments.calibrate.budget import BUDGETS, SearchBudget
from saif.experiments.calibrate.search import Calibration, calibrate
from saif.experiments.datasets import read_contents
from saif.experiments.evaluate import run
from saif.experiments.evaluate.run_folder import RunFolder
from saif.experiments.evaluate.summary import stored_scores
from saif.experiments.report.build import write_report
from saif.presets.library import SHIPPED, Library, read_preset, write_preset
from saif.presets.preset import LoadedPreset
from saif.presets.spec import SteeringSpec

BUDGET = SearchBudget(first=2, first_tokens=3, second=2, third=4, max_new_tokens=4, identify_on=4)
FOUND = SteeringSpec(layer=3, dose=0.5)


@pytest.fixture
def with_saes(
    engine: LocalEngine, library: Library, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Library]:
    """A library with folders for SAEs at layers 1 and 3; loading one gives the planted one."""
    for name in ("question", "verse"):
        preset = planted_preset(engine)
        card = preset.preset.model_copy(update={"id": name, "instruction": name, "title": name})
        write_preset(library.model_folder(engine.model.id), LoadedPreset(card, preset.vectors))
    for layer in (1, 3):
        library.sae_folder(engine.model.id, layer).mkdir(parents=True)
    monkeypatch.setattr(
        build, "load_sae", lambda source: replace(planted_sae(int(Path(source).name)), id=source)
    )
    monkeypatch.setattr(build, "BUDGETS", dict.fromkeys(BUDGETS, BUDGET))
    return library


class Search:
    """Stands in for the search: notes what it was given, and fails when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        self.contents: list[list[str]] = []
        self.searched: list[str] = []
        self.fail_at = -1
        monkeypatch.setattr(build, "calibrate", self._calibrate)

    def _calibrate(
        self, engine: Any, preset: LoadedPreset, instruction: Any, placement: Any, contents: Any,
        effort: Any, *, advance: Any, search: Any,
    ) -> Calibration:  # fmt: skip
        self.searched.append(search)
        if search == "none":
            return calibrate(
                engine, preset, instruction, placement, contents, effort, search=search
            )
        if len(self.calls) == self.fail_at:
            raise RuntimeError
        self.calls.append((preset.id, placement))
        self.contents.append(list(contents))
        choice = preset.preset.placements[placement].choice
        return Calibration(replace(choice, dose=0.123), FOUND, 50.0)


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Search:
    return Search(monkeypatch)


def _calibrate(engine: LocalEngine, library: Library, data: Path, *names: str, **more: Any) -> None:
    options: dict[str, Any] = {"n": 4, "again": False, "command": "made by a test"} | more
    calibrate_presets(engine, library, data, names or ("question", "verse"), None, **options)


def _scored(engine: LocalEngine, library: Library, name: str) -> dict[str, bool]:
    preset = library.preset(engine.model.id, name).preset
    return {p: preset.placements[p].scores is not None for p in PLACEMENTS}


# Calibrating


def test_every_condition_is_scored_and_the_choice_is_written(
    engine: LocalEngine, with_saes: Library, data: Path, search: Search
) -> None:
    _calibrate(engine, with_saes, data, "question")
    preset = read_preset(with_saes.model_folder(engine.model.id) / "question.json").preset
    for placement in PLACEMENTS:
        part = preset.placements[placement]
        assert part.choice.dose == 0.123
        assert part.mean_difference == FOUND
        scores = part.scores
        assert scores is not None
        assert (scores.split, scores.n, scores.max_new_tokens) == ("held-out", 4, 4)
        assert (scores.perplexity_bound, scores.command) == (50.0, "made by a test")
        rows = {row.condition: row for row in scores.conditions}
        assert tuple(rows) == CONDITIONS
        assert {row.loose.n for row in rows.values()} == {4}
        steered = {name: (row.layer, row.dose) for name, row in rows.items() if row.dose}
        saif = steered.pop("saif")
        assert saif[0] == 3
        assert steered == {
            "steered": (part.choice.layer, 0.123),
            "random": (part.choice.layer, 0.123),
            "single-latent": (part.choice.layer, 0.123),
            "mean-difference": (3, 0.5),
        }


def test_scores_can_be_counted_again_from_the_replies_of_their_run(
    engine: LocalEngine, with_saes: Library, data: Path, search: Search, tmp_path: Path
) -> None:
    _calibrate(engine, with_saes, data, "question")
    folder = with_saes.model_folder(engine.model.id)
    runs = {run.name: RunFolder.read(run) for run in (folder / "runs").iterdir()}
    card = with_saes.card(engine.model.id, "question")
    for placement in PLACEMENTS:
        scores = card.placements[placement].scores
        assert scores is not None
        assert scores.run is not None
        run = runs.pop(f"question-{placement}-{scores.run[:10]}")
        assert stored_scores(run, scores.perplexity_bound) == scores
        assert list(run.record.presets) == ["question"]
        assert run.record.max_new_tokens == {"sentence": 4}
        assert {len(found) for found in run.cells().values()} == {4}
        beyond = {
            "perplexity beyond the bound" in reply.problems
            for reply in run.replies()
            if reply.perplexity is None or reply.perplexity > scores.perplexity_bound
        }
        assert beyond == {True}
        page = write_report([run.path], tmp_path / placement).read_text("utf-8")
        assert "mean difference" in page
    assert runs == {}
    assert with_saes.preset_ids(engine.model.id) == ["question", "translate-french", "verse"]


def test_scoring_goes_on_within_a_preset_and_again_makes_its_replies_anew(
    engine: LocalEngine,
    with_saes: Library,
    data: Path,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    real = run.Evaluation.measure

    def measure(self: Any, trial: Any) -> Any:
        made.append(str(trial.cell))
        if len(made) == 4:
            raise KeyboardInterrupt
        return real(self, trial)

    monkeypatch.setattr(run.Evaluation, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        _calibrate(engine, with_saes, data, "question")
    assert _scored(engine, with_saes, "question") == {"pre": False, "post": False}
    cells = [f"question/{placement}/{name}" for placement in PLACEMENTS for name in CONDITIONS]
    made.clear()
    made.extend("four")
    _calibrate(engine, with_saes, data, "question")
    assert made[4:] == cells[3:]
    _calibrate(engine, with_saes, data, "question", again=True)
    assert made[4:] == cells[3:] + cells
    runs = with_saes.model_folder(engine.model.id) / "runs"
    assert len(list(runs.iterdir())) == 2  # the same settings, so the same run


def test_an_interrupted_run_goes_on_where_it_was(
    engine: LocalEngine, with_saes: Library, data: Path, search: Search
) -> None:
    search.fail_at = 3
    with pytest.raises(RuntimeError):
        _calibrate(engine, with_saes, data)
    assert _scored(engine, with_saes, "question") == {"pre": True, "post": True}
    assert _scored(engine, with_saes, "verse") == {"pre": True, "post": False}
    search.fail_at = -1
    _calibrate(engine, with_saes, data)
    jobs = [(name, placement) for name in ("question", "verse") for placement in PLACEMENTS]
    assert search.calls == jobs
    assert _scored(engine, with_saes, "verse") == {"pre": True, "post": True}
    _calibrate(engine, with_saes, data)
    assert len(search.calls) == 4
    _calibrate(engine, with_saes, data, "verse", again=True, search="rival")
    assert search.calls[4:] == [("verse", "pre"), ("verse", "post")]
    assert search.searched[-3:] == ["all", "rival", "rival"]


def test_searching_sees_develop_texts_and_scoring_held_out_ones(
    engine: LocalEngine,
    with_saes: Library,
    data: Path,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored: list[list[str]] = []
    real = build.plan_scores

    def plan_scores(engine: Any, library: Any, subject: Any, contents: Any, **options: Any) -> Any:
        scored.append(list(contents))
        return real(engine, library, subject, contents, **options)

    monkeypatch.setattr(build, "plan_scores", plan_scores)
    _calibrate(engine, with_saes, data, "question")
    assert len(search.contents) == len(scored) == 2
    for given, split, n in ((search.contents, "develop", 4), (scored, "held-out", 4)):
        for contents in given:
            assert len(contents) == n
            assert {build.read_contents.__globals__["split_of"](text) for text in contents} == {
                split
            }


def test_unsteered_replies_are_made_once_for_all_presets_with_the_same_texts(
    engine: LocalEngine,
    with_saes: Library,
    data: Path,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain: list[str] = []
    checked: list[str] = []
    real_replies, real_check = run.make_replies, run.check_replies

    def make_replies(engine: Any, tasks: Any, **options: Any) -> Any:
        plain.extend(t.message for t in tasks if not t.steering and t.message == t.content)
        return real_replies(engine, tasks, **options)

    def check_replies(engine: Any, asked: Any, tasks: Any, replies: Any, **options: Any) -> Any:
        if all(t.steering is None and t.message == t.content for t in tasks):
            checked.append(asked.id)
        return real_check(engine, asked, tasks, replies, **options)

    monkeypatch.setattr(run, "make_replies", make_replies)
    monkeypatch.setattr(run, "check_replies", check_replies)
    _calibrate(engine, with_saes, data)
    assert len(plain) == len(set(plain)) == 4
    assert checked == ["question", "verse"]  # each by its own check, once for both placements


def test_prompts_carry_the_instruction_where_the_placement_says(
    engine: LocalEngine,
    with_saes: Library,
    data: Path,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompted: list[str] = []
    real = run.make_replies

    def make_replies(engine: Any, tasks: Any, **options: Any) -> Any:
        prompted.extend(t.message for t in tasks if t.message != t.content)
        return real(engine, tasks, **options)

    monkeypatch.setattr(run, "make_replies", make_replies)
    _calibrate(engine, with_saes, data, "question")
    wording = with_saes.instruction("question").main_wording
    assert [m.startswith(f"{wording}\n") for m in prompted] == [True] * 4 + [False] * 4
    assert [m.endswith(f"\n{wording}") for m in prompted] == [False] * 4 + [True] * 4


def test_the_data_is_read_once_for_all_presets_and_placements(
    engine: LocalEngine,
    with_saes: Library,
    data: Path,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[tuple[Any, ...]] = []
    real = build.read_contents

    def read_contents(source: Path, *what: Any) -> list[str]:
        read.append(what)
        return real(source, *what)

    monkeypatch.setattr(build, "read_contents", read_contents)
    _calibrate(engine, with_saes, data)
    assert read == [("sentence", "develop", 4), ("sentence", "held-out", 4)]


def test_nothing_to_calibrate_and_too_few_texts_are_refused(
    engine: LocalEngine, with_saes: Library, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="3 held-out texts are too few"):
        _calibrate(engine, with_saes, data, n=3)
    with pytest.raises(PresetError, match="no preset 'nothing'"):
        _calibrate(engine, with_saes, data, "nothing")
    with pytest.raises(InputError, match="no presets for tests/tiny-llama"):
        calibrate_presets(engine, Library(tmp_path), data, None, None, n=4, again=False, command="")


# Identifying


def test_identifying_writes_presets_that_name_their_sae_by_its_place(
    engine: LocalEngine, with_saes: Library, data: Path
) -> None:
    identify_presets(engine, with_saes, data, ["question"], None, n=4)
    preset = with_saes.preset(engine.model.id, "question").preset
    for placement in PLACEMENTS:
        part = preset.placements[placement]
        assert part.layer_numbers == [1, 3]
        assert part.choice.layer == 3
        assert part.scores is None
        assert part.table(1).sae.id == "tiny-llama/sae/1"


def test_an_unknown_instruction_and_one_text_are_refused_before_any_work(
    engine: LocalEngine, with_saes: Library, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(build, "read_activations")
    with pytest.raises(PresetError, match="no instruction 'sing'"):
        identify_presets(engine, with_saes, data, ["question", "sing"], None, n=4)
    with pytest.raises(InputError, match="from 1 texts"):
        identify_presets(engine, with_saes, data, None, None, n=1)


def test_a_model_without_an_sae_is_told_how_to_get_one(
    engine: LocalEngine, library: Library, data: Path
) -> None:
    with pytest.raises(SaeError, match="no SAE for tests/tiny-llama") as error:
        identify_presets(engine, library, data, ["question"], None, n=4)
    assert "train-sae" in error.value.hint


def test_without_a_search_the_choice_stays_and_is_scored(
    engine: LocalEngine, with_saes: Library, data: Path, search: Search
) -> None:
    with pytest.raises(PresetError, match="no choice yet"):
        _calibrate(engine, with_saes, data, "question", search="none")
    _calibrate(engine, with_saes, data, "question")
    before = with_saes.preset(engine.model.id, "question").preset
    _calibrate(
        engine, with_saes, data, "question", search="none", again=True, command="scored again"
    )
    after = with_saes.preset(engine.model.id, "question").preset
    assert len(search.calls) == 2
    for placement in PLACEMENTS:
        assert after.placements[placement].choice == before.placements[placement].choice
        scores = after.placements[placement].scores
        assert scores is not None
        assert scores.command == "scored again"
        assert scores.perplexity_bound != 50


# Making what a model lacks


@pytest.fixture
def shipped(with_saes: Library) -> Library:
    """The with_saes with the sentences that presets are made with."""
    source = SHIPPED / "contents" / "making.txt"
    folder = with_saes.root / "contents"
    folder.mkdir()
    (folder / source.name).write_bytes(source.read_bytes())
    return with_saes


def test_what_a_model_lacks_is_identified_and_the_rest_left_alone(
    engine: LocalEngine, shipped: Library, search: Search
) -> None:
    folder = shipped.model_folder(engine.model.id)
    before = (folder / "question.safetensors").read_bytes()
    make_presets(engine, shipped, None, ["question", "letter"], None, n=4, command="a test")
    assert (folder / "question.safetensors").read_bytes() == before
    jobs = [(name, placement) for name in ("question", "letter") for placement in PLACEMENTS]
    assert search.calls == jobs
    made = shipped.preset(engine.model.id, "letter").preset
    scores = made.placements["post"].scores
    assert scores is not None
    assert (scores.n, scores.command) == (4, "a test")
    make_presets(engine, shipped, None, ["question", "letter"], None, n=4, command="again")
    assert search.calls == jobs  # all there: nothing is done twice


def test_without_names_all_instructions_for_sentences_are_made(
    engine: LocalEngine, shipped: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    identified: list[str] = []
    calibrated: list[str] = []
    monkeypatch.setattr(build, "identify_presets", lambda *a, **_: identified.extend(a[3]))
    monkeypatch.setattr(build, "calibrate_presets", lambda *a, **_: calibrated.extend(a[3]))
    make_presets(engine, shipped, None, None, None, n=4, command="")
    found = {item.id for item in shipped.instructions() if item.contents == "sentence"}
    assert set(calibrated) == found
    assert set(identified) == found - set(shipped.preset_ids(engine.model.id))
    make_presets(engine, shipped, shipped.root, None, None, n=4, command="")
    assert "summarise" in identified
    assert "summarise" not in found


def test_all_that_is_done_is_heard_and_was_foretold(engine: LocalEngine, shipped: Library) -> None:
    foretold = work_left(engine, shipped, "letter", "quick", n=4)
    heard: Counter[str] = Counter()
    made: dict[str, Any] = {"n": 4, "effort": "quick", "command": ""}
    make_presets(engine, shipped, None, ["letter"], None, **made,
                 on_progress=lambda part, n: heard.update({part: n}))  # fmt: skip
    assert heard["prompts"] == foretold["prompts"]
    assert heard["layers"] == foretold["layers"] == 2
    # Neighbours that coincide are made once, and what no steering touches once for all.
    assert 0.8 * foretold["replies"] < heard["replies"] <= foretold["replies"]
    assert set(work_left(engine, shipped, "letter", "quick", n=4).values()) == {0}


def test_who_hears_can_end_the_work_and_the_next_time_goes_on(
    engine: LocalEngine, shipped: Library
) -> None:
    def until_identified(part: str, n: int) -> None:
        if part == "replies":
            raise KeyboardInterrupt

    made: dict[str, Any] = {"n": 4, "effort": "quick", "command": ""}
    with pytest.raises(KeyboardInterrupt):
        make_presets(engine, shipped, None, ["letter"], None, **made, on_progress=until_identified)
    left = work_left(engine, shipped, "letter", "quick", n=4)
    assert (left["prompts"], left["layers"]) == (0, 0)
    assert left["replies"] > 0
    make_presets(engine, shipped, None, ["letter"], None, **made)
    assert _scored(engine, shipped, "letter") == {"pre": True, "post": True}


def test_passages_have_to_be_given(engine: LocalEngine, shipped: Library, search: Search) -> None:
    with pytest.raises(InputError, match="'summarise' is made with passages"):
        make_presets(engine, shipped, None, ["summarise"], None, n=4, command="")
    assert search.calls == []


def test_sentences_for_making_presets_are_enough_and_never_scored_on_again() -> None:
    making = (SHIPPED / "contents" / "making.txt").read_text("utf-8").splitlines()
    scoring = (SHIPPED / "contents" / "sentences.txt").read_text("utf-8").splitlines()
    assert not set(making) & set(scoring)
    assert len(set(making)) == len(making)
    source = SHIPPED / "contents" / "making.txt"
    for split, n in (("identify", 80), ("develop", 20), ("held-out", 20)):
        assert len(read_contents(source, "sentence", split, n)) == n  # type: ignore[arg-type]
