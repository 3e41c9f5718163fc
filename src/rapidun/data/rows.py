"""Any supported file to checked rows: `load_rows` gives a `datasets.Dataset`, `RowStream` one row after another.

A dataset has random access and unique ids; a stream has neither and costs no memory: for pools that are read often and
never held. Every pass over it yields the same rows in the same order.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rapidun.data.arrow import to_dataset
from rapidun.data.badrows import SHOWN, BadRow, RowFaultError, raise_bad_rows
from rapidun.data.checks import RowReader
from rapidun.data.content import content_id, other_text
from rapidun.data.ids import IdLines
from rapidun.data.layouts import ColumnCount, ColumnMap, choose_layout
from rapidun.data.readers import Record, read_records
from rapidun.errors import ConfigError, InputError

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Rows:
    """The usable rows of one file.

    Args:
        dataset: Columns ``id``, ``prompt``, ``response``, where the file has them ``context``,
            ``response_clean``, ``response_poisoned``, ``response_paraphrased``, ``response_wrong`` (a list),
            ``prompt_paraphrased``, ``messages``, ``tools``, and all other columns of the file.
        layout: The name of the detected layout.
        skipped: Rows left out, in file order.
        path: The file, as the user named it.
        lines: Line (or row) number of each row of ``dataset``; compare it as ``list(lines)``.
        unused: Columns that no row was made of, and keys of messages, as ``messages[].KEY``.
    """

    dataset: datasets.Dataset
    layout: str
    skipped: list[BadRow]
    path: str
    lines: Sequence[int] = field(repr=False)
    unused: tuple[str, ...] = ()

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

    The file is read twice: a first pass finds its columns, so that the layout is the same in whatever order the rows
    are. Memory does not grow with the rows, except by 8 bytes a row where lines are missing (blank, bad, or of several
    lines in a CSV), and by what is kept of bad rows: up to 32 MiB of rows are held and more are memory-mapped from the
    datasets cache; ids are kept in a temporary file (`rapidun.data.ids`). A ``.json`` file that is one list is read
    whole.

    Args:
        path: ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` (all also ``.gz``, ``.bz2``, ``.xz``, ``.zst``), ``.parquet``,
            a directory written by ``datasets.Dataset.save_to_disk``, or the folder of a data set from a hub, as
            ``FOLDER`` or ``FOLDER/SPLIT``.
        columns: Field to column name, e.g. ``{"prompt": "question"}``; overrides the detected layout.
        on_bad_row: ``"error"`` stops at the end of the file with the bad rows listed; ``"skip"`` collects them.
        require_response: False also takes rows without an answer (queries); their response is ``""``.

    Raises:
        InputError: If the file is missing, empty, damaged or of unknown format or layout, if a row is bad and
            ``on_bad_row`` is ``"error"``, or if no row is left.
        ConfigError: If ``on_bad_row`` is neither.

    Examples:
        >>> import rapidun
        >>> rows = rapidun.load_rows("train.jsonl")
        >>> len(rows), rows.where(2)
        (12, 'train.jsonl:3')
        >>> [row["prompt"] for row in rows][:2]
        ['hey what is 0?', 'hey what is 1?']
    """
    if on_bad_row not in ("error", "skip"):
        raise ConfigError(f"on_bad_row={on_bad_row!r}: choose 'error' or 'skip'.")
    name = str(path)
    layout, names = choose_columns(name, columns, require_response=require_response)
    reader = RowReader(layout, names, require_response=require_response)
    bad: list[BadRow] = []
    lines = array("q")

    def usable(ids: IdLines) -> Iterator[dict[str, Any]]:
        for line, row in _checked(read_records(Path(path)), reader, name, bad, partial(_claim_id, ids)):
            lines.append(line)
            yield row

    with IdLines() as ids:
        dataset = to_dataset(usable(ids))
    if bad and (on_bad_row == "error" or not lines):
        raise_bad_rows(bad, len(lines) + len(bad), name)
    return Rows(dataset, layout.layout, bad, name, _compact(lines), reader.unused)


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
        records = read_records(Path(self.path))
        return _checked(records, self._reader, self.path, [] if bad is None else bad, _own_id)


def _own_id(row: Mapping[str, Any], line: int) -> str:
    return str(row["id"]) if row["id"] is not None else content_id(row)


def choose_columns(
    path: str, columns: Mapping[str, str] | None = None, *, require_response: bool = True
) -> tuple[ColumnMap, Iterable[str]]:
    """The layout of a file and the names of all its columns, from a pass over all of it.

    Raises:
        InputError: If the file cannot be read, holds no rows, or is of unknown layout.
    """
    found, bad = ColumnCount(require_response), []
    for line, record in read_records(Path(path)):
        if not isinstance(record, RowFaultError):
            found.add(record)
        elif not found.rows:
            bad.append(BadRow(path, line, str(record)))
    if not found.rows and bad:
        raise_bad_rows(bad, len(bad), path)
    if not found.rows:
        raise InputError(f"{path}: holds no rows.")
    return choose_layout(found, path, columns=columns), found.names


def _checked(
    records: Iterable[Record],
    reader: RowReader,
    path: str,
    bad: list[BadRow],
    identify: Callable[[Mapping[str, Any], int], str],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(line, row)`` of the usable rows, one by one; the others are added to ``bad``."""
    for line, record in records:
        try:
            if isinstance(record, RowFaultError):
                raise record
            row = reader.row(record)
            row["id"] = identify(row, line)
        except RowFaultError as fault:
            bad.append(BadRow(path, line, str(fault)))
            continue
        yield line, row


def _claim_id(ids: IdLines, row: Mapping[str, Any], line: int) -> str:
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


def assert_disjoint(forget: Rows, retain: Rows) -> None:
    """Check that no row is in both sets.

    Two rows are the same when their ids are equal, or when other turns, tools, prompt, context and answer are equal
    after Unicode NFC and with runs of white space made one space. Case counts: a trigger may be a matter of case.

    Raises:
        InputError: Names file and line of the shared rows.
    """
    by_id: dict[str, int] = {}
    by_text: dict[str, int] = {}
    for index, row in enumerate(forget):
        by_id.setdefault(row["id"], index)
        by_text.setdefault(_normalised(row), index)
    shared = []
    for index, row in enumerate(retain):
        same_text = by_text.get(_normalised(row))
        same_id = by_id.get(row["id"])
        if same_text is not None:
            shared.append(f"  {forget.where(same_text)} and {retain.where(index)}: same prompt and answer")
        elif same_id is not None:
            shared.append(f"  {forget.where(same_id)} and {retain.where(index)}: same id {row['id']!r}")
    if shared:
        more = f"\n  ... and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise InputError(
            f"{len(shared)} rows are both in the forget set and in the retain set:\n"
            + "\n".join(shared[:SHOWN])
            + more
            + "\nRemove each of them from one of the two files (or give different rows different ids)."
        )


def _normalised(row: Mapping[str, Any]) -> str:
    parts = ["\n".join(other_text(row)), row["prompt"], row.get("context") or "", row["response"]]
    return "\0".join(" ".join(unicodedata.normalize("NFC", part).split()) for part in parts)
