"""The list of mutants fits the code: each can be put in, and the test that it names is there."""

import ast
from pathlib import Path

import pytest
from mutate import Mutant, read_mutants

ROOT = Path(__file__).parents[1]
MUTANTS = read_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_a_mutant_applies_and_its_test_exists(mutant: Mutant) -> None:
    mutated = mutant.mutated((ROOT / mutant.file).read_text("utf-8"))
    assert mutant.after != mutant.before
    ast.parse(mutated)
    file, _, name = mutant.test.partition("::")
    functions = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert name.partition("[")[0] in functions


def test_every_mutant_has_a_name_of_its_own() -> None:
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)
