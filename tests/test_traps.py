"""The table of traps names tests that exist; and the traps that belong to no one room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_named_in_the_table_of_traps_exists() -> None:
    table = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", table))
    defined = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert named - defined == set()
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == [str(number) for number in range(1, 36)]


def test_trap_33_no_assertions_and_no_absolute_paths_in_the_package() -> None:
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assert):
                found.append(f"{path.name}:{node.lineno} assert")
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                absolute = re.match(r"(/home/|/root/|/work/|/Users/|[A-Z]:\\)", node.value)
                found += [f"{path.name}:{node.lineno} {node.value[:30]}"] if absolute else []
    assert found == []


def test_trap_28_the_cost_of_unlearning_includes_influence() -> None:
    from rapidun.demo.cost import UNLEARNING_PHASES

    assert set(UNLEARNING_PHASES) == {"weigh", "unlearn"}
