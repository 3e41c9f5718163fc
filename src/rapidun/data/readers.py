"""Files to records: JSON Lines, JSON, CSV, Parquet, a saved HF dataset; gzip where the name ends in .gz.

Every reader yields ``(line, record)``: a 1-based line number (row number where the format has no lines) and
either a dict or the `RowFaultError` that says why this line holds no row. Nothing here touches the network.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rapidun.data.badrows import RowFaultError, shorten
from rapidun.errors import InputError

Record = tuple[int, "dict[str, Any] | RowFaultError"]
_PARQUET_BATCH = 2048


def read_records(path: Path) -> Iterator[Record]:
    """All records of ``path``, in order, in constant memory where the format allows it.

    Raises:
        InputError: If the file is missing, empty, unreadable, damaged or of an unknown format.
    """
    reader = _reader_for(path)
    try:
        yield from reader(path)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({_one_line(error)}).") from error


def _reader_for(path: Path) -> Callable[[Path], Iterator[Record]]:
    if not path.exists():
        raise InputError(f"{path}: no such file or directory.")
    if path.is_dir():
        return _read_dataset_directory
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty.")
    name = path.name.lower().removesuffix(".gz")
    for suffix, reader in _READERS.items():
        if name.endswith(suffix):
            return reader
    raise InputError(
        f"{path}: unknown format. Give a file that ends in {', '.join(_READERS)} (the text formats also with .gz), "
        "or a directory written by datasets.Dataset.save_to_disk."
    )


def _open_binary(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _read_json_lines(path: Path) -> Iterator[Record]:
    # Split on b"\n" only: str.splitlines would also cut at U+2028 and U+0085, which are legal inside JSON text.
    with _open_binary(path) as file:
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield number, _parse_line(line)


def _parse_line(line: bytes) -> dict[str, Any] | RowFaultError:
    try:
        return _an_object(json.loads(line.decode("utf-8")))
    except UnicodeDecodeError:
        return RowFaultError("not UTF-8 text; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        found = shorten(line.decode("utf-8").strip())
        return RowFaultError(f"not JSON ({_one_line(error)}): {found}")


def _an_object(value: Any) -> dict[str, Any] | RowFaultError:
    if isinstance(value, dict):
        return value
    return RowFaultError(f"not a JSON object but {type(value).__name__}: {shorten(value)}; write one object per row")


def _read_json(path: Path) -> Iterator[Record]:
    with _open_binary(path) as file:
        text = file.read()
    if not text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        _refuse_single_object(path, text)
        yield from _read_json_lines(path)
        return
    try:
        rows = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}:{getattr(error, 'lineno', 1)}: not JSON ({_one_line(error)}).") from error
    for number, row in enumerate(rows, 1):
        yield number, _an_object(row)


def _refuse_single_object(path: Path, text: bytes) -> None:
    """A pretty-printed object would otherwise be reported as one bad row per line."""
    if len(text.strip().splitlines()) < 2:
        return
    try:
        value = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return
    names = ", ".join(map(str, list(value)[:8])) if isinstance(value, dict) else shorten(value)
    raise InputError(f"{path}: one JSON object ({names}), not rows. Give a list of objects, or one object per line.")


def _read_csv(path: Path) -> Iterator[Record]:
    delimiter = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default, 128 KiB, is less than a long answer
    try:
        with io.TextIOWrapper(_open_binary(path), encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = next(reader, [])
            _check_header(path, header)
            last = reader.line_num
            for fields in reader:
                first, last = last + 1, reader.line_num
                if fields:
                    yield first, _csv_row(header, fields)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({_one_line(error)}).") from error
    finally:
        csv.field_size_limit(limit)


def _check_header(path: Path, header: list[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise InputError(f"{path}:1: the header names {', '.join(map(repr, twice))} twice. Rename one of them.")


def _csv_row(header: list[str], fields: list[str]) -> dict[str, Any] | RowFaultError:
    if len(fields) != len(header):
        return RowFaultError(f"{len(fields)} fields where the header has {len(header)}: {shorten(fields)}")
    return dict(zip(header, fields, strict=True))


def _read_parquet(path: Path) -> Iterator[Record]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _read_dataset_directory(path: Path) -> Iterator[Record]:
    import datasets

    if (path / "dataset_dict.json").exists():
        splits = sorted(child.name for child in path.iterdir() if child.is_dir())
        if len(splits) != 1:
            raise InputError(f"{path}: has the splits {', '.join(splits)}. Name one of them, e.g. {path / splits[0]}.")
        path = path / splits[0]
    if not (path / "state.json").exists():
        raise InputError(f"{path}: not a dataset written by datasets.Dataset.save_to_disk (it has no state.json).")
    for number, row in enumerate(datasets.load_from_disk(str(path)), 1):
        yield number, dict(row)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
