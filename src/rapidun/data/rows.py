"""`load_rows`: any supported file to a `datasets.Dataset` of checked rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rapidun.data.arrow import to_dataset
from rapidun.data.badrows import BadRow, RowFaultError, raise_bad_rows
from rapidun.data.checks import to_row
from rapidun.data.layouts import ColumnMap, choose_layout
from rapidun.data.readers import Record, read_records
from rapidun.errors import ConfigError, InputError
from rapidun.files import sha256_of

if TYPE_CHECKING:
    import datasets

_PEEK = 100  # records that are looked at to name the layout


@dataclass(frozen=True)
class Rows:
    """The usable rows of one file.

    Args:
        dataset: Columns ``id``, ``prompt``, ``response``, where the file has them ``context``,
            ``response_clean``, ``response_poisoned``, ``messages``, and all other columns of the file.
        layout: The name of the detected layout.
        skipped: Rows left out, in file order.
        path: The file, as the user named it.
        lines: Line (or row) number of each row of ``dataset``.
    """

    dataset: datasets.Dataset
    layout: str
    skipped: list[BadRow]
    path: str
    lines: list[int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.dataset)

    def where(self, index: int) -> str:
        """``file:line`` of row ``index``."""
        return f"{self.path}:{self.lines[index]}"


def load_rows(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["error", "skip"] = "error",
    require_response: bool = True,
) -> Rows:
    """Read and check all rows of ``path``.

    Args:
        path: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` (all also ``.gz``), ``.parquet``, or a directory written
            by ``datasets.Dataset.save_to_disk``.
        columns: Field to column name, e.g. ``{"prompt": "question"}``; overrides the detected layout.
        on_bad_row: ``"error"`` stops at the end of the file with the bad rows listed; ``"skip"`` collects them.
        require_response: False also takes rows without an answer (queries); their response is ``""``.

    Raises:
        InputError: If the file is missing, empty, damaged or of unknown format or layout, if a row is bad and
            ``on_bad_row`` is ``"error"``, or if no row is left.
        ConfigError: If ``on_bad_row`` is neither.
    """
    if on_bad_row not in ("error", "skip"):
        raise ConfigError(f"on_bad_row={on_bad_row!r}: choose 'error' or 'skip'.")
    name = str(path)
    records = read_records(Path(path))
    peeked = _peek(records)
    layout = _layout_of(peeked, name, columns, require_response)
    rows, lines, bad = _check_all(chain(peeked, records), layout, name, require_response)
    if bad and (on_bad_row == "error" or not rows):
        raise_bad_rows(bad, len(rows) + len(bad), name)
    return Rows(to_dataset(rows), layout.layout, bad, name, lines)


def _peek(records: Iterator[Record]) -> list[Record]:
    """The first records, on to the first object if there is none among them."""
    peeked: list[Record] = []
    while not any(isinstance(record, dict) for _, record in peeked):
        more = list(islice(records, _PEEK))
        if not more:
            break
        peeked.extend(more)
    return peeked


def _layout_of(peeked: list[Record], path: str, columns: Mapping[str, str] | None, require_response: bool) -> ColumnMap:
    if not peeked:
        raise InputError(f"{path}: holds no rows.")
    objects = [record for _, record in peeked if isinstance(record, dict)]
    if not objects:
        bad = [BadRow(path, line, str(record)) for line, record in peeked]
        raise_bad_rows(bad, len(bad), path)
    found = list(dict.fromkeys(column for record in objects for column in record))
    return choose_layout(found, path, columns=columns, require_response=require_response)


def _check_all(
    records: Iterator[Record], layout: ColumnMap, path: str, require_response: bool
) -> tuple[list[dict[str, Any]], list[int], list[BadRow]]:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    bad: list[BadRow] = []
    ids: dict[str, int] = {}
    for line, record in records:
        try:
            if isinstance(record, RowFaultError):
                raise record
            row = to_row(record, layout, require_response=require_response)
            row["id"] = _claim_id(row, ids, line)
        except RowFaultError as fault:
            bad.append(BadRow(path, line, str(fault)))
            continue
        rows.append(row)
        lines.append(line)
    return rows, lines, bad


def _claim_id(row: Mapping[str, Any], ids: dict[str, int], line: int) -> str:
    """The row's own id, or its content's hash with the next free ``-2``, ``-3``, ... for repeated content."""
    given = row["id"]
    if given is not None and given in ids:
        raise RowFaultError(f"the id {given!r} is already that of line {ids[given]}; ids must differ")
    found = given if given is not None else content_id(row)
    copy = 1
    while found in ids:
        copy += 1
        found = f"{found.split('-')[0]}-{copy}"
    ids[found] = line
    return str(found)


def content_id(row: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of prompt, context and response (and earlier turns, where there are any)."""
    parts = [row["prompt"], row.get("context") or "", row["response"]]
    earlier = (row.get("messages") or [])[:-1]
    if earlier:
        parts.append(json.dumps(earlier, sort_keys=True))
    return sha256_of(part.encode("utf-8") for part in parts)[:16]
