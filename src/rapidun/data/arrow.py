"""Rows to a `datasets.Dataset`: in memory while small, a memory-mapped Arrow file when large.

Extra columns are the user's and may mix types; a column that Arrow cannot hold as one type is kept as JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped]

from rapidun.files import atomic_write, sha256_of

if TYPE_CHECKING:
    import datasets

_IN_MEMORY_BYTES = 64 * 2**20


def to_dataset(rows: Sequence[dict[str, Any]], *, in_memory_bytes: int = _IN_MEMORY_BYTES) -> datasets.Dataset:
    """The rows as a dataset; columns in order of first appearance, None where a row lacks one.

    A table larger than ``in_memory_bytes`` goes to a file of the local datasets cache, named by its content, and
    is memory-mapped from there.
    """
    import datasets

    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
    if table.nbytes <= in_memory_bytes:
        return datasets.Dataset(datasets.table.InMemoryTable(table))
    return datasets.Dataset.from_file(str(_cached(table, Path(datasets.config.HF_DATASETS_CACHE) / "rapidun")))


def _column(values: list[Any]) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values])


def _cached(table: pa.Table, folder: Path) -> Path:
    digest = sha256_of(chain([str(table.schema).encode()], _buffers(table)))
    path = folder / f"{digest[:32]}.arrow"
    if not path.exists():
        with atomic_write(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return path


def _buffers(table: pa.Table) -> Iterator[bytes]:
    for column in table.columns:
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                yield b"" if buffer is None else buffer.to_pybytes()
