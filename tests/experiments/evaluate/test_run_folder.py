"""Run folders: what a kill leaves behind is dropped, and the rest goes on."""

from pathlib import Path

import pytest

from saif.errors import InputError
from saif.experiments.evaluate.run_folder import Cell, ReplyRecord, RunFolder, RunRecord, Timing
from saif.presets.preset import ModelRef

N = 3


def _record(**more: object) -> RunRecord:
    values = {
        "kind": "evaluate",
        "command": "python -m saif evaluate",
        "model": ModelRef(id="m", fingerprint="f", n_layers=2, d_model=4),
        "quantize": "none",
        "presets": {},
        "contents": {},
        "placements": ["pre"],
        "conditions": ["unsteered", "steered"],
        "over": None,
        "values": [],
        "n": N,
        "seed": 0,
        "temperature": 0.0,
        "max_new_tokens": {"sentence": 5},
        "versions": {},
    }
    return RunRecord.model_validate({**values, **more})


def _cell(condition: str) -> Cell:
    return Cell(preset="verse", placement="pre", condition=condition)


def _replies(cell: Cell) -> list[ReplyRecord]:
    return [
        ReplyRecord(
            cell=cell, content=f"content {i}", message="m", push=None, text="déjà\nvu", dose=None,
            token_ids=[1, 2], stop="end", steered=0, loose=True, strict=False, about=None,
            problems=[], perplexity=1.5,
        )
        for i in range(N)
    ]  # fmt: skip


def _append(folder: RunFolder, condition: str) -> None:
    cell = _cell(condition)
    timing = Timing(cell=cell, tokens=6, generation_seconds=2.0, judging_seconds=1.0)
    folder.append(_replies(cell), timing)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path / "run", _record())
    _append(folder, "unsteered")
    _append(folder, "steered")
    again = RunFolder.read(tmp_path / "run")
    assert again.record == _record()
    assert list(again.cells()) == [_cell("unsteered"), _cell("steered")]
    assert again.cells()[_cell("steered")] == _replies(_cell("steered"))
    assert again.timings()[_cell("steered")].tokens == 6


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.99])
def test_what_a_kill_left_of_a_cell_is_dropped(tmp_path: Path, kept: float) -> None:
    folder = RunFolder.open(tmp_path, _record())
    _append(folder, "unsteered")
    first = folder.replies_path.read_bytes()
    _append(folder, "steered")
    whole = folder.replies_path.read_bytes()
    folder.replies_path.write_bytes(whole[: len(first) + int(kept * (len(whole) - len(first)))])
    timings = tmp_path / "timings.jsonl"
    timings.write_bytes(timings.read_bytes()[:-20])
    assert folder.resume() == [_cell("unsteered")]
    assert folder.replies_path.read_bytes() == first
    assert list(folder.timings()) == [_cell("unsteered")]
    _append(folder, "steered")
    assert folder.replies_path.read_bytes() == whole
    assert folder.resume() == [_cell("unsteered"), _cell("steered")]


def test_a_folder_with_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path, _record())
    _append(folder, "unsteered")
    with pytest.raises(InputError, match="another run"):
        RunFolder.open(tmp_path, _record(seed=1))
    assert RunFolder.read(tmp_path).record.seed == 0
    assert len(folder.replies()) == N


def test_how_the_command_was_typed_makes_no_other_run(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, _record())
    RunFolder.open(tmp_path, _record(command="python -m saif evaluate --json"))
    assert _record().identity() == _record(command="x").identity() != _record(n=9).identity()


def test_what_is_no_run_or_damaged_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run"):
        RunFolder.read(tmp_path)
    folder = RunFolder.open(tmp_path, _record())
    _append(folder, "unsteered")
    with folder.replies_path.open("a") as file:
        file.write('{"cell": 3}\n')
    with pytest.raises(InputError, match="line 4"):
        folder.replies()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run\.json"):
        RunFolder.read(tmp_path)
