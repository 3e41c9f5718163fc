"""Values on disk: parts of a pool, each written beside and renamed, then one file in the format asked for.

A part depends on its own rows alone, so a scoring that was killed goes on at the first part that is missing and ends
with the same bytes.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.files import atomic_write, remove_leftovers
from rapidun.models.passes import Progress
from rapidun.table_files import load_table
from rapidun.text import json_line

Extra = Callable[[int, list[dict[str, Any]]], Mapping[str, Sequence[Any]]]  # first ordinal, rows -> columns
_Item = TypeVar("_Item")
_ADVICE = "Delete it and run again with --resume."


def chunked(items: Iterator[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of ``size`` items; the last may be shorter."""
    while chunk := list(islice(items, size)):
        yield chunk


def value_columns(tasks: Sequence[str]) -> list[str]:
    """``value``, and with several tasks one further column for each."""
    return ["value", *([f"value.{task}" for task in tasks] if len(tasks) > 1 else [])]


def write_parts(
    folder: Path,
    rows: Iterator[tuple[int, dict[str, Any]]],
    score: Callable[[list[dict[str, Any]]], npt.NDArray[np.float32]],
    tasks: Sequence[str],
    *,
    part_rows: int,
    total: int,
    extra: Extra | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Score every ``(line, row)`` that has no part yet, by ``score``: rows to (rows, tasks) float32.

    Raises:
        InputError: If a part that is there is damaged.
        ModelError: If a value is not finite.
        OutputError: If the disk is full or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    written, done = [], 0
    for number, chunk in enumerate(chunked(rows, part_rows)):
        path = folder / f"{number:06d}.parquet"
        lines, content = [line for line, _ in chunk], [row for _, row in chunk]
        if path.exists():
            _check_part(path, lines)
        else:
            values = score(content)
            if not np.isfinite(values).all():
                worst = lines[int(np.argmin(np.isfinite(values).all(axis=1)))]
                raise ModelError(f"the value of line {worst} is not finite. Use --dtype float32 or bfloat16.")
            more = extra(done, content) if extra is not None else {}
            _write_part(path, lines, content, values, tasks, more)
        written.append(path)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    return written


def _check_part(path: Path, lines: Sequence[int]) -> None:
    table = load_table(path, _ADVICE, {"line": _kind("line")}, rows=len(lines))
    if table.column("line").to_pylist() != lines:
        raise InputError(f"{path}: holds other rows than {lines[0]} to {lines[-1]}. {_ADVICE}")


def _write_part(
    path: Path,
    lines: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    values: npt.NDArray[np.float32],
    tasks: Sequence[str],
    more: Mapping[str, Sequence[Any]],
) -> None:
    columns: dict[str, Any] = {"line": lines, "id": [row["id"] for row in rows]}
    mean = values.mean(axis=1, dtype=np.float32)
    named = [mean, *(values.T if len(tasks) > 1 else [])]
    columns.update(zip(value_columns(tasks), named, strict=True))
    arrays = {name: pa.array(found, _kind(name)) for name, found in {**columns, **more}.items()}
    with atomic_write(path, "wb") as file:
        pq.write_table(pa.table(arrays), file)


def _kind(name: str) -> Any:
    return {"line": pa.int64(), "id": pa.string(), "tokens": pa.int64()}.get(name, pa.float32())


def read_column(parts: Sequence[Path], name: str) -> npt.NDArray[np.generic]:
    """One column of all parts, (rows,).

    Raises:
        InputError: If a part is damaged.
    """
    tables = [load_table(path, _ADVICE, {name: _kind(name)}) for path in parts]
    return np.concatenate([table.column(name).to_numpy(zero_copy_only=False) for table in tables])


def write_values(parts: Sequence[Path], directory: Path, form: str) -> Path:
    """All parts as ``values.jsonl``, ``values.csv`` or ``values.parquet``; one part in memory at a time.

    Raises:
        ConfigError: If the format is unknown.
        OutputError: If it cannot be written.
    """
    check_format(form)
    path = directory / f"values.{form}"
    binary = form == "parquet"
    with atomic_write(path, "wb" if binary else "w") as file:
        _WRITERS[form](_tables(parts), file)
    for other in _WRITERS:
        if other != form:
            (directory / f"values.{other}").unlink(missing_ok=True)
    return path


def check_format(form: str) -> None:
    """Refuse an unknown format.

    Raises:
        ConfigError: Naming those there are.
    """
    if form not in _WRITERS:
        raise ConfigError(f"--format {form}: use one of {', '.join(sorted(_WRITERS))}.")


def _tables(parts: Sequence[Path]) -> Iterator[pa.Table]:
    """All columns of each part, which are those of the first."""
    names: list[str] = []
    for path in parts:
        table = load_table(path, _ADVICE, {name: _kind(name) for name in ("line", "id", "value")}, others=True)
        names = names or table.column_names
        if table.column_names != names or any(field.type != _kind(field.name) for field in table.schema):
            raise InputError(f"{path}: other columns than in {parts[0]}. Delete both and run again with --resume.")
        yield table


def _write_jsonl(tables: Iterator[pa.Table], file: IO[Any]) -> None:
    for table in tables:
        for row in table.to_pylist():
            file.write(json_line({name: value for name, value in row.items() if value is not None}) + "\n")


def _write_csv(tables: Iterator[pa.Table], file: IO[Any]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for number, table in enumerate(tables):
        if number == 0:
            writer.writerow(table.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _write_parquet(tables: Iterator[pa.Table], file: IO[Any]) -> None:
    first = next(tables)
    with pq.ParquetWriter(file, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


_WRITERS: dict[str, Callable[[Iterator[pa.Table], IO[Any]], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
