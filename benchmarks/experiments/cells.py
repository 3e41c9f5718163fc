"""The cells of a table, kept as lines of a file: each is computed once, under the hash of everything that decides it.

A line is written whole and flushed to the disk when its cell is finished, so a kill loses the cell under way and no
other. A changed setting, model, row or `VERSION` is another key: old lines stay and are not mistaken for new ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rapidun.data.badrows import shorten
from rapidun.errors import InputError
from rapidun.files import sha256_of
from rapidun.jsonl import append_log, numbered_log

VERSION = 3
"""Of the code path from rows to numbers: raised by hand with every change that alters a number."""


@dataclass(frozen=True)
class Cell:
    """One training (or one reference model) and its measurement.

    Args:
        arm: Name of the table's row, ``method/weights`` or a reference.
        scenario: Name of the scenario.
        seed: Of the draw of the rows, the adapter and the order.
        config: All that decides the numbers: settings, fingerprints of model and rows, version. Plain JSON.
    """

    arm: str
    scenario: str
    seed: int
    config: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """32 hex digits of the SHA-256 of the whole configuration."""
        named = {"arm": self.arm, "scenario": self.scenario, "seed": self.seed, "config": self.config}
        return sha256_of([json.dumps(named, sort_keys=True).encode()])[:32]


class CellStore:
    """The finished cells of one file of JSON lines.

    Args:
        path: The file; made with the first cell.

    Raises:
        InputError: If a line that was finished is not a cell; names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, dict[str, Any]] = {}
        for number, line in numbered_log(path):
            if not {"key", "arm", "scenario", "seed", "result"} <= line.keys() or not isinstance(line["key"], str):
                raise InputError(
                    f"{path}:{number}: not a cell of a benchmark: {shorten(line)}. Remove it to compute it again."
                )
            self._lines.setdefault(line["key"], line)

    def __contains__(self, cell: Cell) -> bool:
        return cell.key in self._lines

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """The line of a cell, or None where it is missing."""
        return self._lines.get(cell.key)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every finished cell, those of other settings too."""
        return list(self._lines.values())

    def add(self, cell: Cell, result: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Append a finished cell and see it to the disk.

        Args:
            cell: The cell.
            result: Its numbers.
            about: What is worth knowing and decides nothing: machine, time, version of the package.

        Raises:
            OutputError: If it cannot be written.
        """
        line = {
            "key": cell.key, "arm": cell.arm, "scenario": cell.scenario, "seed": cell.seed,
            "result": dict(result), "about": dict(about), "config": dict(cell.config),
        }  # fmt: skip
        append_log(self.path, [line])
        self._lines[cell.key] = line


def time_left(missing: Sequence[Cell], lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Seconds that the missing cells should take, None where nothing is known yet.

    Each takes the mean of its arm's finished cells, or of all where its arm has none.
    """
    taken: dict[str, list[float]] = {}
    for line in lines:
        taken.setdefault(line["arm"], []).append(float(line["about"]["wall_seconds"]))
    everything = [seconds for of_arm in taken.values() for seconds in of_arm]
    if not everything:
        return None if missing else 0.0
    overall = sum(everything) / len(everything)
    return sum(sum(taken[cell.arm]) / len(taken[cell.arm]) if cell.arm in taken else overall for cell in missing)
