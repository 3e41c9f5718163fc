"""A pool of candidate rows: read from its file in every pass, never held. What is kept is a few numbers a row."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.data import BadRow, RowStream
from rapidun.data.badrows import raise_bad_rows
from rapidun.data.content import row_content
from rapidun.errors import InputError
from rapidun.pipeline.inputs import RunModel, note_unused
from rapidun.pipeline.reporter import Reporter
from rapidun.settings.model import RowSettings
from rapidun.valuation.features import length_of
from rapidun.valuation.parts import chunked

Numbered = tuple[int, dict[str, Any]]  # line, row
Inspect = Callable[[Sequence[Numbered]], list[BadRow]]
_AT_ONCE = 2048


@dataclass(frozen=True)
class Pool:
    """The usable rows of a file; a row's ordinal is its place among them.

    Args:
        stream: The file.
        count: Usable rows.
        fingerprint: SHA-256 of their ids and texts, in order.
        lengths: Characters of each, (rows,) uint32.
        left_out: Lines that are read but not used.
        bad: Every row left out, with its reason.
    """

    stream: RowStream
    count: int
    fingerprint: str
    lengths: npt.NDArray[np.uint32]
    left_out: frozenset[int]
    bad: list[BadRow]

    def rows(self) -> Iterator[Numbered]:
        """``(line, row)`` of every usable row, in order."""
        return (numbered for numbered in self.stream.rows() if numbered[0] not in self.left_out)

    def at(self, ordinals: npt.NDArray[np.int64]) -> list[Numbered]:
        """The rows with these ordinals, in ascending order; one pass over the file."""
        wanted = set(ordinals.tolist())
        last = max(wanted, default=-1)
        found = []
        for ordinal, numbered in enumerate(self.rows()):
            if ordinal > last:
                break
            if ordinal in wanted:
                found.append(numbered)
        return found


def survey(
    path: Path, settings: RowSettings, reporter: Reporter, *, inspect: Inspect | None = None, by: str | None = None
) -> Pool:
    """Read a pool once: check every row, count, measure and fingerprint it.

    Args:
        path: Any row file.
        settings: How rows are read; decides what happens to bad ones.
        reporter: Told what was found.
        inspect: Finds further rows that cannot be used, a few thousand at a time.
        by: A column that rows should have.

    Raises:
        InputError: If a row is bad and such rows are not skipped, no row is left, or no row has the column ``by``.
    """
    stream = RowStream(path, columns=settings.columns or None)
    bad: list[BadRow] = []
    left_out: set[int] = set()
    lengths, digest, named = array("I"), hashlib.sha256(), False
    columns: dict[str, None] = {}
    for chunk in chunked(stream.rows(bad), _AT_ONCE):
        faults = inspect(chunk) if inspect is not None else []
        bad.extend(faults)
        here = {fault.line for fault in faults}
        left_out |= here
        for line, row in chunk:
            if line in here:
                continue
            lengths.append(length_of(row))
            for part in row_content(row):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
            named = named or by is None or row.get(by) is not None
        columns.update(dict.fromkeys(chunk[0][1]))
    bad.sort(key=lambda fault: fault.line)
    if bad and (settings.on_bad_row == "error" or not lengths):
        raise_bad_rows(bad, len(bad) + len(lengths), str(path))
    if not lengths:
        raise InputError(f"{path}: holds no rows.")
    if not named:
        raise InputError(f"--by {by}: {path} has no column {by!r}. It has: {', '.join(columns)}.")
    dropped = f", {len(bad)} left out" if bad else ""
    reporter.note(f"candidates: {len(lengths)} rows, layout {stream.layout}{dropped}")
    note_unused(stream, "candidates", reporter, (by,))
    sizes = np.frombuffer(lengths, dtype=np.uint32)
    return Pool(stream, len(lengths), digest.hexdigest(), sizes, frozenset(left_out), bad)


def untokenisable(run_model: RunModel, path: Path) -> Inspect:
    """For `survey`: rows that the run's tokenizer and template cannot take."""

    def inspect(chunk: Sequence[Numbered]) -> list[BadRow]:
        faults: list[BadRow] = []
        run_model.tokenize([row for _, row in chunk], skipped=faults)
        return [BadRow(str(path), chunk[fault.line - 1][0], fault.reason) for fault in faults]

    return inspect
