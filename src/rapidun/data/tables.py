"""Tables to records: CSV and TSV, Parquet, and data sets that `datasets` has saved."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rapidun.data.arrow import JsonText, register_json_text
from rapidun.data.badrows import RowFaultError, shorten
from rapidun.data.json_files import NOT_UTF8, Record
from rapidun.data.opening import one_line, open_rows, plain_suffixes, refuse_disguised
from rapidun.data.turns import is_unicode
from rapidun.errors import InputError

_ROWS_AT_ONCE = 2048


def read_csv(path: Path) -> Iterator[Record]:
    """Rows of a CSV or TSV file under the line they start on.

    Raises:
        InputError: If the file or its header is damaged.
    """
    delimiter = "\t" if plain_suffixes(path).endswith(".tsv") else ","
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default, 128 KiB, is less than a long answer
    try:
        with open_rows(path) as raw:
            file = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
            yield from _csv_records(path, csv.reader(file, delimiter=delimiter, strict=True))
    finally:
        csv.field_size_limit(limit)


def _csv_records(path: Path, reader: Any) -> Iterator[Record]:
    header = _header(path, reader)
    last = reader.line_num
    while True:
        first = last + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = reader.line_num
            if "unexpected end of data" in str(error):
                raise InputError(f"{path}:{first}: a quotation mark opens here and is never closed.") from error
            yield first, RowFaultError(f"not CSV ({one_line(error)})")
            continue
        last = reader.line_num
        if fields is None:
            return
        if fields:
            yield first, _csv_row(header, fields)


def _header(path: Path, reader: Any) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{path}:1: not CSV ({one_line(error)}).") from error
    if not all(map(is_unicode, header)):
        raise InputError(f"{path}:1: {NOT_UTF8}.")
    _check_names(f"{path}:1: the header", header)
    return header


def _check_names(where: str, names: Sequence[str]) -> None:
    if any("\0" in name for name in names):
        raise InputError(f"{where} has a NUL in a name. Rename that column.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{where} names {', '.join(map(shorten, twice))} twice. Rename one of them.")


def _csv_row(header: list[str], fields: list[str]) -> dict[str, Any] | RowFaultError:
    if not all(map(is_unicode, fields)):
        return RowFaultError(NOT_UTF8)
    if len(fields) != len(header):
        return RowFaultError(f"{len(fields)} fields where the header has {len(header)}: {shorten(fields)}")
    return dict(zip(header, fields, strict=True))


def read_parquet(path: Path) -> Iterator[Record]:
    """Rows of a Parquet file under their number.

    Raises:
        InputError: If the file is damaged.
    """
    with path.open("rb") as file:
        refuse_disguised(path, b"" if (head := file.read(64)).startswith(b"PAR1") else head)
    try:
        with pq.ParquetFile(path) as table:
            _check_names(f"{path}: the table", table.schema_arrow.names)
            yield from _numbered(table.iter_batches(batch_size=_ROWS_AT_ONCE))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: cannot be read as Parquet ({one_line(error)}). It is another kind of file, damaged or cut off: "
            "copy or download it again."
        ) from error


def read_saved(path: Path) -> Iterator[Record]:
    """Rows of a directory written by ``datasets.Dataset.save_to_disk``, under their number.

    Raises:
        InputError: If the directory is damaged.
    """
    import datasets

    register_json_text()
    try:
        found = datasets.load_from_disk(str(path))
        as_json = [name for name, feature in found.features.items() if isinstance(feature, JsonText)]
        tables = found.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE)
        for number, record in _numbered(map(_validated, tables)):
            if not isinstance(record, RowFaultError):
                record |= {name: JsonText().decode_example(record[name]) for name in as_json}
            yield number, record
    except Exception as error:  # whatever a damaged directory makes of `datasets`
        raise InputError(
            f"{path}: cannot be read as a saved data set ({one_line(error)}). Save it again with "
            "datasets.Dataset.save_to_disk."
        ) from error


def _validated(table: pa.Table) -> pa.Table:
    """The table, if its offsets stay within its buffers: Arrow takes a damaged file as it is."""
    table.validate(full=True)
    return table


def _numbered(tables: Iterable[Any]) -> Iterator[Record]:
    return enumerate((record for table in tables for record in _records(table)), 1)


def _records(table: Any) -> Iterator[dict[str, Any] | RowFaultError]:
    try:
        rows = table.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException) as error:  # not UTF-8, or a date that Python has not
        if table.num_rows == 1:
            yield RowFaultError(f"a value cannot be read ({one_line(error)})")
        else:
            yield from (record for place in range(table.num_rows) for record in _records(table.slice(place, 1)))
        return
    for row in rows:
        yield {name: _without_nulls(value) for name, value in row.items()}


def _without_nulls(value: Any) -> Any:
    """Arrow gives every object in a column the keys of all others, as nulls: they are not the row's."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
