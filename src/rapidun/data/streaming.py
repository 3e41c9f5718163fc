"""Rows one after another, in constant memory: for pools that are read often and never held.

`load_rows` gives a dataset with random access and unique ids; a `RowStream` gives neither, and costs no memory. Every
pass over it yields the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rapidun.data.badrows import BadRow, RowFaultError
from rapidun.data.checks import RowReader
from rapidun.data.content import content_id
from rapidun.data.readers import read_records
from rapidun.data.rows import choose_columns


class RowStream:
    """The rows of a file, checked as `load_rows` checks them.

    Ids that are absent are the hash of the content; they need not differ. The line number tells rows apart.

    Args:
        path: As for `load_rows`.
        columns: Field to column name; overrides the detected layout.
        require_response: Whether a row needs an answer.

    Raises:
        InputError: If the file is missing, empty, or of unknown format or layout.
    """

    def __init__(
        self, path: str | Path, *, columns: Mapping[str, str] | None = None, require_response: bool = True
    ) -> None:
        self.path = str(path)
        layout, names = choose_columns(self.path, columns, require_response=require_response)
        self._reader = RowReader(layout, names, require_response=require_response)

    @property
    def layout(self) -> str:
        """The name of the detected layout."""
        return self._reader.columns.layout

    @property
    def unused(self) -> tuple[str, ...]:
        """As of `Rows`, from what was read so far."""
        return self._reader.unused

    def rows(self, bad: list[BadRow] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """``(line, row)`` of every usable row; the others are added to ``bad``.

        Raises:
            InputError: If the file is damaged.
        """
        for line, record in read_records(Path(self.path)):
            try:
                if isinstance(record, RowFaultError):
                    raise record
                row = self._reader.row(record)
            except RowFaultError as fault:
                if bad is not None:
                    bad.append(BadRow(self.path, line, str(fault)))
                continue
            row["id"] = row["id"] if row["id"] is not None else content_id(row)
            yield line, row
