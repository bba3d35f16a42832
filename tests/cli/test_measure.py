"""`evaluate` and `sweep` on the tiny model, from the command line to the files they leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from saif.experiments.evaluate import run as module
from saif.experiments.evaluate.run_folder import RunFolder
from saif.presets.library import read_preset, write_preset
from saif.presets.preset import LoadedPreset, Scores
from saif.presets.spec import SteeringSpec

CONDITIONS = "unsteered,steered,prompted,mean-difference,single-latent,wrong-instruction"


@pytest.fixture
def measure(saif: Any, own_files: Any, tmp_path: Path) -> Callable[..., Result]:
    """Runs a measuring command on calibrated presets, with texts of its own."""
    contents = own_files.presets / "contents"
    contents.mkdir()
    texts = [f"The {noun} is {how}." for noun in ("cat", "sea", "sun") for how in ("old", "blue")]
    (contents / "sentences.txt").write_text("\n".join(texts) + "\n")
    for name in ("translate-french", "question"):
        preset = read_preset(own_files.preset(name))
        scores = Scores(
            split="held-out", n=1, max_new_tokens=4, perplexity_bound=1e9, command="", conditions=[]
        )
        baseline = SteeringSpec(layer=3, dose=0.5)
        placements = {
            placement: part.model_copy(update={"scores": scores, "mean_difference": baseline})
            for placement, part in preset.preset.placements.items()
        }
        card = preset.preset.model_copy(update={"placements": placements})
        write_preset(own_files.preset(name).parent, LoadedPreset(card, preset.vectors))

    def run(command: str, *arguments: object, out: str = "run") -> Result:
        here = ("--model", own_files.model, "--presets", own_files.presets, "--n", 4)
        return saif(
            command, *here, "--preset", "translate-french", "--out", tmp_path / out, *arguments
        )

    return run


def _evaluate(measure: Any, *arguments: object, **more: Any) -> dict[str, Any]:
    result = measure("evaluate", "--conditions", CONDITIONS, "--json", *arguments, **more)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_condition_is_measured_with_its_intervals(measure: Any, tmp_path: Path) -> None:
    document = _evaluate(measure, "--placement", "post")
    assert document["n"] == 4
    rows = {row["condition"]: row for row in document["results"]}
    assert set(rows) == set(CONDITIONS.split(","))
    for row in rows.values():
        assert row["n"] == 4
        for rate in ("loose", "strict", "degenerate", "loose_and_fluent"):
            assert 0 <= row[rate]["low"] <= row[rate]["value"] <= row[rate]["high"] <= 1
    assert rows["unsteered"]["dose"] is rows["prompted"]["dose"] is None
    assert rows["steered"]["dose"] == 1.0
    assert rows["mean-difference"]["dose"] == 0.5
    cells = RunFolder.read(tmp_path / "run").cells()
    steered = {cell.condition: [r.steered > 0 for r in replies] for cell, replies in cells.items()}
    for condition, flags in steered.items():
        assert flags == [condition not in ("unsteered", "prompted")] * 4


def test_the_same_command_gives_the_same_replies_also_when_sampling(
    measure: Any, tmp_path: Path
) -> None:
    warm = ("--placement", "pre", "--temperature", 0.9, "--seed", 5)
    _evaluate(measure, *warm, out="one")
    _evaluate(measure, *warm, out="two")
    _evaluate(measure, *warm[:-1], 6, out="three")
    one, two, three = (
        (tmp_path / name / "replies.jsonl").read_bytes() for name in ("one", "two", "three")
    )
    assert one == two != three


def test_a_killed_run_goes_on_and_ends_in_the_same_file(
    measure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _evaluate(measure, out="whole")
    made: list[str] = []
    real = module.Evaluation.measure

    def killed(self: Any, trial: Any) -> Any:
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(str(trial.cell))
        return real(self, trial)

    monkeypatch.setattr(module.Evaluation, "measure", killed)
    measure("evaluate", "--conditions", CONDITIONS, out="cut")
    torn = tmp_path / "cut" / "replies.jsonl"
    torn.write_bytes(torn.read_bytes()[:-40])  # as a kill in mid-write leaves it
    monkeypatch.setattr(module.Evaluation, "measure", real)
    document = _evaluate(measure, out="cut")
    assert torn.read_bytes() == (tmp_path / "whole" / "replies.jsonl").read_bytes()
    for row, other in zip(document["results"], expected["results"], strict=True):
        assert {**row, "tokens_per_second": 0} == {**other, "tokens_per_second": 0}


def test_a_finished_run_is_only_read(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _evaluate(measure)

    def unexpected(self: Any, trial: Any) -> Any:
        raise AssertionError(trial)

    monkeypatch.setattr(module.Evaluation, "measure", unexpected)
    assert len(_evaluate(measure)["results"]) == 12


def test_a_sweep_varies_one_thing_beside_its_baselines(measure: Any, tmp_path: Path) -> None:
    result = measure("sweep", "--over", "k", "--values", "1,3", "--placement", "pre", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["results"]
    assert [(row["condition"], row["value"]) for row in rows] == [
        ("unsteered", None),
        ("steered", 1),
        ("steered", 3),
        ("prompted", None),
    ]
    assert rows[1]["dose"] == rows[2]["dose"] == 1.0
    cells = RunFolder.read(tmp_path / "run").cells()
    specs = {cell.value: replies[0].push for cell, replies in cells.items()}
    assert specs[None] is None
    assert [specs[k]["latents"]["k"] for k in (1, 3)] == [1, 3]  # type: ignore[index]


def test_strength_nought_steers_nothing_and_two_twice_as_hard(measure: Any, tmp_path: Path) -> None:
    measure("sweep", "--over", "strength", "--values", "0,2", "--placement", "pre")
    cells = RunFolder.read(tmp_path / "run").cells()
    replies = {(cell.condition, cell.value): found for cell, found in cells.items()}
    off, twice = replies["steered", 0.0], replies["steered", 2.0]
    assert [r.token_ids for r in off] == [r.token_ids for r in replies["unsteered", None]]
    assert {(r.steered, r.dose) for r in off} == {(0, None)}
    assert {r.dose for r in twice} == {2.0}
    assert all(r.steered for r in twice)


@pytest.mark.parametrize(
    "over", ["layer", "beta", "placement", "selection", "rule", "half-life", "shape"]
)
def test_every_parameter_can_be_swept(measure: Any, over: str) -> None:
    result = measure("sweep", "--over", over, "--json", "--placement", "post")
    assert result.exit_code == 0, result.output
    values = [row["value"] for row in json.loads(result.stdout)["results"] if row["value"]]
    assert len(set(values)) >= 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluate", "--conditions", "steered,prompted,luck"), "'luck' is not a condition"),
        (("evaluate", "--placement", "middle"), "'middle' is not a placement"),
        (("evaluate", "--preset", "nothing"), "no preset 'nothing'"),
        (("evaluate", "--n", 7), "6 sentence texts ship"),
        (("evaluate", "--data", "nowhere"), "no data at nowhere"),
        (("sweep", "--over", "luck"), "'luck' is not a parameter"),
        (("sweep", "--over", "k", "--values", "1,2.5"), "k must be a whole number"),
        (("sweep", "--over", "strength", "--values", "-1"), "strength must be a number from 0"),
        (("sweep", "--over", "layer", "--values", "2"), "'2' is not a value of layer"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_made(
    measure: Any, refused: Any, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(measure(*arguments))
    assert not (tmp_path / "run").exists()


def test_a_preset_without_calibration_is_refused(
    saif: Any, files: Any, refused: Any, tmp_path: Path
) -> None:
    contents = tmp_path / "texts.txt"
    contents.write_text("\n".join(f"Sentence number {i} is here." for i in range(60)))
    result = saif(
        "evaluate", "--model", files.model, "--presets", files.presets, "--data", contents,
        "--n", 4, "--out", tmp_path / "run",
    )  # fmt: skip
    assert "not calibrated" in refused(result)
