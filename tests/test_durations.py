"""What keeps the suite short: the budget of a run, the order of its files, its marks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUSY = """
import os

def test_it():
    begun = sum(os.times()[:2])
    while sum(os.times()[:2]) - begun < {seconds}:
        pass
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of three files, with this one's plugin and settings."""
    tests = tmp_path / "tests"
    (tests / "smoke").mkdir(parents=True)
    for name in ("conftest.py", "durations.py"):
        shutil.copy(HERE / name, tests)
    shutil.copy(HERE.parent / "pyproject.toml", tmp_path)
    (tests / "test_a.py").write_text(BUSY.format(seconds=0))
    (tests / "test_b.py").write_text(BUSY.format(seconds=0.4))
    (tests / "smoke" / "test_c.py").write_text(BUSY.format(seconds=0.3))
    return tmp_path


def run(suite: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """pytest on it, in a process of its own that knows nothing of the one around it."""
    known = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=suite, env=known | {"PYTHONPATH": str(HERE.parent)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_a_run_above_its_budget_fails_and_says_what_to_do(suite: Path) -> None:
    within = run(suite, "--budget=60", "--costs=2")
    assert within.returncode == 0, within.stdout
    costs = within.stdout.partition("cost in processor seconds")[2].splitlines()
    assert "fast 0, smoke 0" in costs[1]
    assert ["test_b" in costs[2], "test_c" in costs[3]] == [True, True]  # the dearest, and only two
    assert "test_a" not in "".join(costs)
    above = run(suite, "--budget=0.5")  # no test alone, but all together
    assert above.returncode == 1
    assert "3 passed" in above.stdout
    assert "their budget is" in above.stdout


def test_durations_are_kept_and_order_the_files_of_the_next_run(suite: Path) -> None:
    file = suite / "tests" / "durations.json"
    old = {"tests/test_b.py::test_it": 9.0, "tests/gone.py::test_it": 9.0}
    file.write_text(json.dumps(old))
    assert run(suite, "tests/smoke", "--save-durations").returncode == 0
    saved = json.loads(file.read_text())
    assert set(saved) == {"tests/smoke/test_c.py::test_it", "tests/test_b.py::test_it"}
    assert 0.25 < saved["tests/smoke/test_c.py::test_it"] < 0.6
    workers = ("-n", "1", "--dist", "loadfile", "--no-loadscope-reorder", "-vv")
    said = [line for line in run(suite, *workers).stdout.splitlines() if "PASSED" in line]
    assert [line.partition("test_")[2][0] for line in said] == ["b", "c", "a"], said


def test_a_test_in_a_tier_s_folder_has_its_mark(suite: Path) -> None:
    (suite / "tests" / "stress").mkdir()
    shutil.copy(suite / "tests" / "test_a.py", suite / "tests" / "stress" / "test_d.py")
    for marks, found in (("smoke", "test_c"), ("extended", "test_d")):
        listed = run(suite, "--collect-only", "-m", marks).stdout
        assert [name in listed for name in ("test_a", "test_b", found)] == [False, False, True]
