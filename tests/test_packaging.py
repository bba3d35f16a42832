"""What `pip install` gets: the metadata agrees with requirements.txt, and the wheel is whole."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import saif
from saif.runtime import embedded

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pins(name: str) -> dict[str, str]:
    """Package -> the version that a requirements file pins."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    found = (re.match(r"([A-Za-z0-9_.-]+)==([^\s;#]+)", line) for line in lines)
    return {canonicalize_name(pin[1]): pin[2] for pin in found if pin}


def asked(*extras: str) -> dict[str, Requirement]:
    """Package -> what the metadata asks of it, for saif itself or for its extras."""
    lists = [PROJECT["optional-dependencies"][extra] for extra in extras]
    requirements = [
        Requirement(text) for part in lists or [PROJECT["dependencies"]] for text in part
    ]
    return {canonicalize_name(each.name): each for each in requirements if each.name != "saif"}


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        ("requirements.txt", ["app", "judge", "quantize", "study"]),
        ("requirements-dev.txt", ["dev"]),
    ],
)
def test_the_metadata_allows_exactly_what_is_pinned(file: str, extras: list[str]) -> None:
    pinned = pins(file)
    wanted = asked(*extras) | (asked() if file == "requirements.txt" else {})
    assert set(wanted) == set(pinned)
    refused = [name for name, each in wanted.items() if pinned[name] not in each.specifier]
    assert not refused
    open_ended = [name for name, each in wanted.items() if "<" not in str(each.specifier)]
    assert not open_ended


def test_the_embedded_models_package_is_the_pinned_one() -> None:
    assert pins("requirements-embedded.txt") == {embedded.PACKAGE: embedded.VERSION}


def test_the_console_script_is_there() -> None:
    module, _, name = PROJECT["scripts"]["saif"].partition(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_its_presets(tmp_path: Path) -> None:
    """Needs a package index, for what builds it."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("saif-*.whl")
    assert wheel.name.startswith(f"saif-{saif.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "saif", "presets"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    expected = {re.sub(r"^presets/", "saif/_presets/", name) for name in tracked}
    assert expected <= names
    others = {name for name in names - expected if ".dist-info/" not in name}
    assert not others


@pytest.mark.slow
def test_an_installed_wheel_finds_its_own_presets(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    code = (
        "import saif; print(saif.__file__); print(*saif.list_presets('smollm2-135m-instruct'));"
        "print(saif.Library().root)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "SAIF_HOME": str(tmp_path / "home")},
        check=True,
        capture_output=True,
        text=True,
    )
    file, presets, root = done.stdout.splitlines()
    assert Path(file).is_relative_to(tmp_path)
    assert "translate-french" in presets.split()
    assert Path(root) == tmp_path / "saif" / "_presets"
