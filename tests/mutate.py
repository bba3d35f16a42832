"""Mutation check: every fault in mutants.toml, put into a copy of the tree, must fail its test.

With a fault that survives an assertion is missing. `make mutants` runs all of them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FAST = "not (extended or browser or serial or slow or gpu)"


class Mutant(NamedTuple):
    """One fault. test: the pytest node, of the fast tier, that has to fail with it."""

    id: str
    file: str
    before: str
    after: str
    breaks: str
    test: str

    def mutated(self, text: str) -> str:
        """The file's text with the fault. Raises ValueError unless there is one place for it."""
        if (found := text.count(self.before)) != 1:
            raise ValueError(f"'{self.before}' occurs {found} times in {self.file}")
        return text.replace(self.before, self.after)


def read_mutants() -> list[Mutant]:
    """All mutants, in the order of the file."""
    listed = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text("utf-8"))["mutant"]
    return [Mutant(**each) for each in listed]


def copy_tracked(target: Path) -> None:
    """Copy the tracked files as they are now."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(tree: Path, *tests: str) -> "subprocess.CompletedProcess[str]":
    """pytest in a copy, and on its saif."""
    env = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    env |= {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pytest = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", FAST]
    return subprocess.run([*pytest, *tests], cwd=tree, env=env, capture_output=True, text=True)


def verdict(mutant: Mutant, plain: Path) -> str:
    """What became of a mutant: `killed`, or what is wrong. plain: the tree without it."""
    tree = plain.with_name(mutant.id)
    try:
        text = mutant.mutated((plain / mutant.file).read_text("utf-8"))
        shutil.copytree(plain, tree, copy_function=os.link)
        (tree / mutant.file).unlink()  # a link, so writing would reach the other copies
        (tree / mutant.file).write_text(text, "utf-8")
        code = run_tests(tree, mutant.test).returncode
        shutil.rmtree(tree)
    except (OSError, ValueError) as error:
        return f"does not apply: {error}"
    return {0: "SURVIVED", 1: "killed"}.get(code, f"pytest ended with {code}")


def main() -> int:
    known = {mutant.id: mutant for mutant in read_mutants()}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="ID", choices=known, default=known, nargs="+")
    parser.add_argument("--markdown", action="store_true", help="print a table for a document")
    asked = parser.parse_args()
    mutants = [known[name] for name in asked.only]
    row = "| {1} | `{2}` | {3} | `{4}` |" if asked.markdown else "{0:8} {1:22} {4}"
    if asked.markdown:
        print("| id | file | fault | test that fails |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        copy_tracked(plain := Path(folder, "plain"))
        if (ran := run_tests(plain, *dict.fromkeys(each.test for each in mutants))).returncode:
            sys.exit(f"{ran.stdout}{ran.stderr}The tests do not pass without a mutant.")
        n_killed = 0
        for m, said in zip(mutants, pool.map(lambda m: verdict(m, plain), mutants), strict=True):
            print(row.format(said, m.id, m.file, m.breaks, m.test), flush=True)
            n_killed += said == "killed"
    print(f"{n_killed} of {len(mutants)} mutants were killed.", file=sys.stderr)
    return int(n_killed < len(mutants))


if __name__ == "__main__":
    sys.exit(main())
