"""`load_rows`: any supported file to a `datasets.Dataset` of checked rows."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rapidun.data.arrow import to_dataset
from rapidun.data.badrows import BadRow, RowFaultError, raise_bad_rows
from rapidun.data.checks import to_row
from rapidun.data.ids import IdLines
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
        lines: Line (or row) number of each row of ``dataset``; compare it as ``list(lines)``.
    """

    dataset: datasets.Dataset
    layout: str
    skipped: list[BadRow]
    path: str
    lines: Sequence[int] = field(repr=False)

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

    Memory does not grow with the rows, except by 8 bytes a row where lines are missing (blank, bad, or of several lines
    in a CSV), and by what is kept of bad rows: up to 32 MiB of rows are held and more are memory-mapped from the
    datasets cache; ids are kept in a temporary file (`rapidun.data.ids`). A ``.json`` file that is one list is read
    whole.

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
    bad: list[BadRow] = []
    lines = array("q")
    dataset = to_dataset(_usable(chain(peeked, records), layout, name, require_response, lines, bad))
    if bad and (on_bad_row == "error" or not lines):
        raise_bad_rows(bad, len(lines) + len(bad), name)
    return Rows(dataset, layout.layout, bad, name, _compact(lines))


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


def _usable(
    records: Iterable[Record],
    layout: ColumnMap,
    path: str,
    require_response: bool,
    lines: array[int],
    bad: list[BadRow],
) -> Iterator[dict[str, Any]]:
    """The usable rows, one by one; their line numbers are added to ``lines`` and the other rows to ``bad``."""
    with IdLines() as ids:
        for line, record in records:
            try:
                if isinstance(record, RowFaultError):
                    raise record
                row = to_row(record, layout, require_response=require_response)
                row["id"] = _claim_id(row, ids, line)
            except RowFaultError as fault:
                bad.append(BadRow(path, line, str(fault)))
                continue
            lines.append(line)
            yield row


def _claim_id(row: Mapping[str, Any], ids: IdLines, line: int) -> str:
    """The row's own id, or its content's hash with the next free ``-2``, ``-3``, ... for repeated content."""
    given = row["id"]
    if given is not None:
        if not ids.claim(given, line):
            raise RowFaultError(f"the id {given!r} is already that of line {ids.line_of(given)}; ids must differ")
        return str(given)
    found = content = content_id(row)
    copy = 1
    while not ids.claim(found, line):
        copy += 1
        found = f"{content}-{copy}"
    return found


def _compact(lines: array[int]) -> Sequence[int]:
    """The same numbers, as a range where none is missing between the first and the last."""
    whole = bool(lines) and lines[-1] - lines[0] == len(lines) - 1
    return range(lines[0], lines[-1] + 1) if whole else lines


def content_id(row: Mapping[str, Any]) -> str:
    """16 hex digits of the SHA-256 of prompt, context and response (and earlier turns, where there are any)."""
    parts = [row["prompt"], row.get("context") or "", row["response"]]
    earlier = (row.get("messages") or [])[:-1]
    if earlier:
        parts.append(json.dumps(earlier, sort_keys=True))
    return sha256_of(part.encode("utf-8") for part in parts)[:16]
