"""A command line in a process of its own, and a tiny model with rows to use it on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tiny import save_tiny, tiny_rows, write_rows

Rapidun = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def rapidun() -> Rapidun:
    def call(
        *arguments: object, cwd: Path | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rapidun", *map(str, arguments)],
            capture_output=True,
            check=False,
            text=True,
            timeout=240,
            cwd=cwd,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "110", "OMP_NUM_THREADS": "1", **(environment or {})},
        )

    return call


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """``model/`` and ``forget|retain|evaluation|validation.jsonl``."""
    save_tiny(tmp_path / "model")
    for name, count in (("forget", 8), ("retain", 12), ("evaluation", 9), ("validation", 10)):
        write_rows(tmp_path / f"{name}.jsonl", tiny_rows(name, count))
    return tmp_path
