"""What attacks a run holds, whatever made them: every number in ``attacks/*.json``, and no text of an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rapidun.errors import InputError
from rapidun.reading import read_object
from rapidun.statement.content import Attack

FOLDER = "attacks"
MOST = 1000
"""Numbers of one attack. Those of single rows, which are lists, are left to the file, whose hash stands beside them."""


def attacks_of(run: Path) -> list[Attack]:
    """One a file, in order of their names; none where there is no folder.

    Raises:
        InputError: If a file is no JSON object, or holds too much for one attack.
    """
    folder = run / FOLDER
    return [_attack(path) for path in sorted(folder.glob("*.json")) if path.is_file()] if folder.is_dir() else []


def _attack(path: Path) -> Attack:
    raw = read_object(path)
    numbers = dict(_numbers(raw, ""))
    if len(numbers) > MOST:
        raise InputError(f"{path}: holds {len(numbers)} numbers by name; {MOST} is the most for one attack.")
    return Attack(name=path.stem, file=f"{FOLDER}/{path.name}", numbers=numbers)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float | bool]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, bool | int | float) and math.isfinite(value):
        yield name, value
