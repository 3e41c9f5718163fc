"""What attacks a run holds, whatever made them: the numbers of ``attacks/*.json``, and no text of an answer.

A file is one attack, or a list of them under ``attacks`` with what was decided under ``checks``, as `rapidun attack`
writes it. One that was not run is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rapidun.errors import InputError
from rapidun.lifecycle import CONFIG, IDENTITY, PHASES
from rapidun.reading import read_json
from rapidun.statement.content import Attack, Numbers
from rapidun.verdicts import worst
from rapidun.yaml_files import read_yaml

FOLDER = "attacks"
MOST = 5000
"""Numbers of one attack."""


def attacks_of(run: Path) -> list[Attack]:
    """Every attack of a run, in order of the files' names; none where there is no folder.

    Raises:
        InputError: If a file is not JSON, or holds too much for one attack.
    """
    paths = sorted((run / FOLDER).glob("*.json")) if (run / FOLDER).is_dir() else []
    named = [path for path in paths if path.is_file() and path.name not in (IDENTITY, PHASES)]
    return [attack for path in named for attack in _of_file(path)]


def budget_of(run: Path) -> Numbers:
    """The numbers of the attacks' own configuration: minutes, prompts, seed."""
    path = run / FOLDER / CONFIG
    return dict(_numbers(read_yaml(path), "")) if path.is_file() else {}


def _of_file(path: Path) -> Iterator[Attack]:
    raw = read_json(path)
    raw = raw if isinstance(raw, dict) else {}
    records = raw.get("attacks")
    several = isinstance(records, list)
    for record in records if isinstance(records, list) else [raw]:
        if not isinstance(record, dict) or record.get("status") == "not run":
            continue
        numbers = dict(_numbers(record, ""))
        if len(numbers) > MOST:
            raise InputError(f"{path}: one attack in it has {len(numbers)} numbers; {MOST} is the most.")
        name = str(record.get("name"))
        name = name if several and re.fullmatch(r"[A-Za-z][\w.-]{0,63}", name) else path.stem
        yield Attack(name=name, file=f"{FOLDER}/{path.name}", verdict=_verdict(raw, record), numbers=numbers)


def _verdict(raw: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    """The worst answer to a question about this attack; None where none was asked."""
    asked = raw.get("checks")
    checks = [each for each in asked if isinstance(each, dict)] if isinstance(asked, list) else []
    return worst(each.get("verdict") for each in checks if each.get("attack") == record.get("name"))


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float | bool]]:
    """Every number by its place; lists of plain numbers, which may be one a row, are left to the file."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            if isinstance(inner, dict):
                yield from _numbers(inner, f"{name}.{place}")
    elif isinstance(value, bool | int | float) and math.isfinite(value):
        yield name, value
