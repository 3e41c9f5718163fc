"""At which state of the code a page was written; what a benchmark keeps between runs may be older."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("src", "benchmarks/*.py", "recipes/*.py", "recipes/*.yaml", "pyproject.toml", "constraints.txt")


def current_commit() -> str:
    """The short hash of HEAD; says so where code differs from it. Results that a run writes do not count."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", *CODE)
    return f"{commit} with changes that are not committed" if changed else commit


def tree(path: str) -> str:
    """Git's short name of what is committed below ``path``: unlike a commit, the same after a rebase."""
    return _git("rev-parse", "--short", f"HEAD:{path}")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
