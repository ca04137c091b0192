"""The list of mistakes that `make mutants` plants fits the code."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: f"{mutant.file}")
def test_a_mistake_can_be_planted_and_its_tests_exist(mutant):
    text = (mutants.ROOT / "workbench" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.original) == 1
    ast.parse(text.replace(mutant.original, mutant.mutated))
    for test in mutants.selected(mutant):
        path, _, name = test.partition("::")
        assert f"def {name or 'test_'}" in (mutants.ROOT / path).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_failing_test_is_told_from_none(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "def test_right(): pass\ndef test_wrong(): assert False\n"
    )
    assert mutants.failure(tmp_path, ["test_one.py::test_right"]) == ""
    assert "test_wrong" in mutants.failure(tmp_path, ["test_one.py"])
