"""What goes into an export for others: scripts that redo the estimate, and a viewer's file."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up_participants import (
    answers,
    cast,
    complete,
    made_ready,
    make_store,
    person,
    published,
)

from saif.study.analysis.data import from_export
from saif.study.analysis.estimates import best_estimate
from saif.study.data.comparator import comparator, score
from saif.study.data.export import export
from saif.study.data.tables import TABLES
from saif.study.participation.steps import add_exchange, begin
from saif.study.participation.votes import preference_scores
from saif.study.simulation.simulate import BotBehaviour, simulate

SAME = {"abs": 1e-9, "rel": 1e-9}


def redone(folder: Path) -> dict[str, dict[str, Any]]:
    """What the exported script prints, in an interpreter that can't import saif."""
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "analysis.py")],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("n", "free", "crowd"),
    [
        (18, False, BotBehaviour(rate=0.65, ties=0.2)),
        (18, True, BotBehaviour(rate=0.65, ties=0.2)),
        (5, False, BotBehaviour(rate=0.6)),
        (5, True, BotBehaviour(rate=0.99, icc=0.0, ties=0.0, dropout=0.0)),
        (1, False, BotBehaviour(dropout=0.0)),
    ],
)
def test_the_script_in_the_export_gives_the_same_numbers(
    tmp_path: Path, n: int, free: bool, crowd: BotBehaviour
) -> None:
    changes: dict[str, Any] = {"prompts": {"kind": "free", "task": "Chat."}} if free else {}
    store = make_store(tmp_path, trials__main=6, trials__retest=1, **changes)
    simulate(store, n, crowd, seed=2)
    export(store, tmp_path / "out", actor="me")
    votes = from_export(tmp_path / "out").votes["main"]
    wanted = best_estimate(preference_scores(votes, "steered"))
    (found,) = redone(tmp_path / "out").values()
    assert found["share"] == pytest.approx(wanted.value, **SAME)
    assert (found["participants"], found["votes"]) == (wanted.n_participants, wanted.n_votes)
    if wanted.variance is None:
        assert found["low"] is None
        return
    assert [found["low"], found["high"]] == pytest.approx(wanted.interval(), **SAME)
    test = wanted.t_test()
    told = [found["t"], found["df"], found["p"]]
    assert told == (
        [None] * 3 if test is None else pytest.approx([test[0], wanted.df, test[1]], **SAME)
    )


def test_the_scripts_need_no_saif(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    complete(store)
    export(store, tmp_path / "out", actor="me")
    for name in ("analysis.py", "analysis.R"):
        text = (tmp_path / "out" / name).read_text("utf-8")
        assert "import saif" not in text
        assert "from saif" not in text
        assert "trials.csv" in text
    with (tmp_path / "out" / "trials.csv").open(encoding="utf-8", newline="") as file:
        columns = set(next(csv.reader(file)))
    used = {"kind", "state", "prefers_first", "prompts", "participant", "preset", "position"}
    used |= {"choice", "left_arm", "right_arm"}  # by the mixed model in R
    assert used <= columns


# The viewer's file


def graded(tmp_path: Path, *, share: bool = True) -> Any:
    store = make_store(
        tmp_path, trials__main=2, trials__retest=0, preference__strength=["a bit", "much"]
    )
    for number in range(3):
        token = store.enrol(person(number), share_text=share).token
        while (trial := begin(store, token)) is not None:
            while trial.state == "running":
                trial = add_exchange(store, token, trial.trial_id, answers(trial))
            if trial.kind != "main":
                cast(store, token, trial)
            elif number == 0:
                side = "L" if trial.left == "steered" else "R"
                cast(store, token, trial, side, strength=1, reason="Nicer.")  # type: ignore[arg-type]
            elif number == 1:
                side = "R" if trial.left == "steered" else "L"
                cast(store, token, trial, side, strength=2)  # type: ignore[arg-type]
            else:
                cast(store, token, trial, "tie")
    return store


@pytest.mark.parametrize("profile", ["full", "public"])
def test_the_viewers_file_has_a_rating_for_each_vote(tmp_path: Path, profile: Any) -> None:
    store = graded(tmp_path)
    export(store, tmp_path / "out", profile=profile, actor="me")
    document = json.loads((tmp_path / "out" / "comparator.json").read_text("utf-8"))
    assert document["models"] == [{"name": "steered"}, {"name": "unsteered"}]
    assert set(document["metadata"]) == {"source_path", "custom_fields_schema"}
    ratings = []
    for example in document["examples"]:
        assert set(example) == {
            "input_text", "tags", "output_text_a", "output_text_b", "score",
            "individual_rater_scores", "custom_fields",
        }  # fmt: skip
        assert example["output_text_a"] == "An answer of steered."
        assert example["output_text_b"] == "An answer of unsteered."
        each = [one["score"] for one in example["individual_rater_scores"]]
        assert example["score"] == pytest.approx(sum(each) / len(each))
        ratings += example["individual_rater_scores"]
    assert sorted(one["score"] for one in ratings) == [-1.5, -1.5, 0, 0, 0.75, 0.75]
    assert {one["rationale"] for one in ratings} == {"Nicer.", ""}
    assert {one["is_flipped"] for one in ratings} == {True, False}


def test_no_viewers_file_where_no_text_may_leave(tmp_path: Path) -> None:
    store = graded(tmp_path, share=False)
    for profile in ("deidentified", "public"):
        export(store, tmp_path / profile, profile=profile, actor="me")  # type: ignore[arg-type]
        assert not (tmp_path / profile / "comparator.json").exists()
    export(store, tmp_path / "full", profile="full", actor="me")
    assert (tmp_path / "full" / "comparator.json").exists()


def test_a_vote_without_a_strength_counts_one() -> None:
    study = published().study
    row = {column.name: None for column in TABLES["trials"][1]}
    row |= {"trial": "t", "participant": "p", "prompts": "[]"}  # type: ignore[dict-item]
    row |= {"left_arm": "unsteered", "right_arm": "steered"}  # type: ignore[dict-item]
    for choice, wanted in {"L": -1.0, "R": 1.0, "tie": 0.0, "both_bad": 0.0}.items():
        assert score(study, {**row, "choice": choice}) == wanted
    assert comparator(study, {"trials": [], "turns": []}) is None


def test_what_failed_is_not_shown_to_a_viewer(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    token = store.enrol(person(), share_text=True).token
    trial = made_ready(store, token)
    assert trial.kind == "practice"
    cast(store, token, trial)
    skipped = made_ready(store, token)
    cast(store, token, skipped, "skip")
    export(store, tmp_path / "out", profile="full", actor="me")
    assert not (tmp_path / "out" / "comparator.json").exists()
