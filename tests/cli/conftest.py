"""The command line, and a tiny model with rows to use it on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import command_line
from tiny import save_tiny, tiny_rows, write_rows

Rapidun = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def rapidun() -> Rapidun:
    """In this process, and nothing of it stays."""
    return command_line.rapidun


@pytest.fixture(scope="session")
def rapidun_process() -> Rapidun:
    """In a process of its own."""
    return command_line.rapidun_process


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """``model/`` and ``forget|retain|evaluation|validation.jsonl``."""
    save_tiny(tmp_path / "model")
    for name, count in (("forget", 8), ("retain", 12), ("evaluation", 9), ("validation", 10)):
        write_rows(tmp_path / f"{name}.jsonl", tiny_rows(name, count))
    return tmp_path
