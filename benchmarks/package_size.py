"""How large the package is and whether its modules import in circles; the numbers of docs/architecture.md.

    python benchmarks/package_size.py

Lines and files are those of ``src/rapidun/**/*.py``; a public definition is a function or class at the top of a module
whose name has no underscore in front; a circle is a set of modules that need each other, imports inside functions and
under ``TYPE_CHECKING`` included. That a package imports its own modules is no circle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "rapidun"
SHORT = 60


def modules(package: Path = PACKAGE) -> dict[str, ast.Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """The known modules that a module imports anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in names if {name, node.module} & known)


def circles(package: Path = PACKAGE) -> list[list[str]]:
    """Sets of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    trees = modules(package)
    plain = {name for name in trees if not any(other.startswith(f"{name}.") for other in trees)}
    graph = {name: set(imported(trees[name], plain)) - {name} for name in plain}
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = lowest[name] = len(order)
        path.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in path:
                lowest[name] = min(lowest[name], order[other])
        if lowest[name] == order[name]:
            place = path.index(name)
            if len(path) - place > 1:
                found.append(sorted(path[place:]))
            del path[place:]

    for name in sorted(plain):
        if name not in order:
            visit(name)
    return found


def main() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in files]
    public = sum(
        isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        for tree in modules().values()
        for node in tree.body
    )
    print(f"lines {sum(lengths)}, files {len(files)}, of fewer than {SHORT} lines {sum(n < SHORT for n in lengths)}")
    print(f"public definitions {public}, circles of imports {circles()}")


if __name__ == "__main__":
    main()
