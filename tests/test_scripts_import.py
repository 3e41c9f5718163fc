"""Scripts outside the package name only what the package has: nobody runs all of them after a name was moved."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path for folder in ("benchmarks", "recipes", "docs", "examples") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_that_a_script_takes_from_the_package_is_there(path):
    imports = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    ]
    for node in imports:
        if node.module is None or node.module.split(".")[0] != "rapidun":
            continue
        module = importlib.import_module(node.module)
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            found = hasattr(module, alias.name) or (hasattr(module, "__path__") and importlib.util.find_spec(name))
            assert found, f"line {node.lineno}: there is no {name}"
