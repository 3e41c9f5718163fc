"""Parquet files of our own: a table with the columns it was written with, or one line that names the file.

A damaged file may still be read as Parquet, with fewer rows, or without a column or with another type in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rapidun.errors import InputError


def load_table(
    path: Path, advice: str, columns: Mapping[str, Any], *, rows: int | None = None, others: bool = False
) -> pa.Table:
    """The columns of a file, checked by name and type, and their number of rows where that is known.

    Args:
        path: The file. A checksum of its pages is checked where it has one.
        advice: What to do about a damaged one.
        columns: Each column's Arrow type.
        rows: How many there must be.
        others: Further columns are read too.

    Raises:
        InputError: If it is missing or damaged; ends in ``advice``.
    """
    try:
        with path.open("rb") as file, pq.ParquetFile(file, page_checksum_verification=True) as whole:
            fault = _fault(whole, columns, rows)
            if fault is None:
                return whole.read(None if others else list(columns))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. {advice}") from error
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read as Parquet ({reason}). {advice}") from error
    raise InputError(f"{path}: {fault}. {advice}")


def _fault(whole: pq.ParquetFile, columns: Mapping[str, Any], rows: int | None) -> str | None:
    schema = whole.schema_arrow
    if len(set(schema.names)) < len(schema.names):
        return "two columns have the same name"
    for name, kind in columns.items():
        if name not in schema.names or schema.field(name).type != kind:
            return f"no column {name!r} of type {kind}"
    found = whole.metadata.num_rows
    return f"{found} rows where {rows} belong" if rows not in (None, found) else None
