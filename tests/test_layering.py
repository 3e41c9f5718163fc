"""Data flows one way: a module imports only from its own package and those above it in the architecture's table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_size import circles

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rapidun"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_order(page: str) -> list[str]:
    """Packages in the order of the first table of docs/architecture.md."""
    table = page.split("| package |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \|", table, flags=re.MULTILINE)


ORDER = room_order((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def room_of(path: Path) -> str:
    """The room of a module; ``python -m rapidun`` belongs to the command line."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cli" if name == "__main__" else name


def imported_rooms(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, room) of every import from rapidun, relative ones and those inside functions included."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, node.module or ""]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "rapidun" else [base]
        for name in names:
            if name.startswith("rapidun."):
                yield node.lineno, name.split(".")[1]


def upward_imports(source: str, room: str, package: str) -> list[str]:
    """Imports that go against the flow, each as ``line: room``."""
    above = set(ORDER[: ORDER.index(room) + 1])
    found = imported_rooms(ast.parse(source), package)
    return [f"{line}: {name}" for line, name in found if name in ORDER and name not in above]


def test_the_table_names_the_rooms_in_the_known_order():
    assert ORDER[:4] == ["errors", "text", "reading", "files"]
    assert ORDER.index("files") < ORDER.index("stats") < ORDER.index("data") < ORDER.index("models")
    assert ORDER.index("report") < ORDER.index("pipeline") < ORDER.index("cli")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_rooms_above_it(path):
    assert room_of(path) in ORDER, f"{path.name} is in a room that docs/architecture.md does not list"
    package = ".".join(["rapidun", *path.relative_to(PACKAGE).parts[:-1]])
    assert upward_imports(path.read_text(encoding="utf-8"), room_of(path), package) == []


@pytest.mark.parametrize(
    "line",
    [
        "from rapidun.models import load_model",
        "import rapidun.models.losses",
        "from rapidun import models",
        "from ..models import losses",
        "from .. import models",
        "def late():\n    from rapidun.models.losses import mean_answer_loss",
    ],
)
def test_every_way_to_import_upwards_is_seen(line):
    assert upward_imports(line, "data", "rapidun.data") != []
    assert upward_imports(line, "gradients", "rapidun.gradients") == []


def test_the_package_itself_imports_no_torch():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top for alias in node.names} | {getattr(node, "module", None) for node in top}
    assert not any(name and name.split(".")[0] in ("torch", "transformers", "datasets", "peft") for name in names)


def test_no_modules_import_each_other_in_a_circle_types_included():
    assert circles() == []


def test_a_circle_behind_type_checking_is_seen(tmp_path):
    package = tmp_path / "house"
    package.mkdir()
    (package / "__init__.py").write_text("from house.one import x\n")
    (package / "one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house import two\n")
    (package / "two.py").write_text("def late():\n    from house.one import x\n")
    (package / "three.py").write_text("import house.one\n")
    assert circles(package) == [["house.one", "house.two"]]
