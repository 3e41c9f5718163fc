"""The faults of benchmarks/mutations.py are of the package as it is: a stale one proves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutations import MUTATIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.file}: {each.old[:40]}")
def test_a_mutation_changes_one_place_of_its_file_and_names_tests_that_exist(mutation):
    text = (ROOT / "src" / "rapidun" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert all((ROOT / "tests" / test.split("::")[0]).is_file() for test in mutation.tests)
