"""Rows that cannot be used: what is wrong, in which file, on which line, and how it is said to the user."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from rapidun.errors import InputError

SHOWN = 5  # a message lists this many bad rows, then the total


@dataclass(frozen=True)
class BadRow:
    """One row that was left out or that stopped the run.

    Args:
        file: The file as the user named it.
        line: Line number from 1; in formats without lines, the row number from 1.
        reason: What is wrong, with the value and the fix.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"

    def as_dict(self) -> dict[str, str | int]:
        """The row as it is written to ``rows_skipped.jsonl``."""
        return asdict(self)


class RowFaultError(ValueError):
    """Raised while one row is checked; the reader turns it into a `BadRow`. Never reaches the user."""


def shorten(value: Any, width: int = 60) -> str:
    """``value`` as JSON on one line, cut to ``width`` characters; safe to print whatever it holds."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (ValueError, RecursionError):
        text = repr(type(value))
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= width else text[: width - 3] + "..."


def printable(name: str) -> str:
    """A column's name as it is shown: as it is, but for what no line can hold."""
    return shorten(name)[1:-1]


def raise_bad_rows(bad: Sequence[BadRow], total: int, path: str) -> NoReturn:
    """Stop with the first few bad rows and their number.

    Raises:
        InputError: Always.
    """
    listed = "\n".join(f"  {row}" for row in bad[:SHOWN])
    more = f"\n  ... and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    raise InputError(
        f"{path}: {len(bad)} of {total} rows cannot be used:\n{listed}{more}\n"
        "Correct them, or leave such rows out with --on-bad-row skip."
    )
