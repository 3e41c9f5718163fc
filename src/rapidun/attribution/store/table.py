"""``rows.parquet``: who the rows are. One part a shard, so that it grows without being read."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from rapidun.attribution.store.names import VERIFY, table_file
from rapidun.attribution.store.plan import Span
from rapidun.data import Example
from rapidun.table_files import load_table

PREVIEW = 240
"""Characters of prompt and answer kept for display."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("tokens", pa.int32()),
        ("answer_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("gradient_norm", pa.float32()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
    ]
)


def make_table(
    span: Span, rows: Sequence[Mapping[str, Any]], examples: Sequence[Example], columns: Mapping[str, Sequence[Any]]
) -> pa.Table:
    """The table of one shard; ``columns`` come from the views, and what no view gives is null."""
    found: dict[str, Sequence[Any]] = {
        "id": [example.id for example in examples],
        "position": range(span.first, span.first + len(examples)),
        "tokens": [len(example) for example in examples],
        "answer_tokens": [len(example) - example.answer_start for example in examples],
        "truncated": [example.truncated for example in examples],
        "prompt": [_preview(row.get("prompt")) for row in rows],
        "response": [_preview(row.get("response")) for row in rows],
        "shard": [span.number] * len(examples),
        "row": range(len(examples)),
        **columns,
    }
    arrays = [
        pa.array(found[field.name], type=field.type) if field.name in found else pa.nulls(len(examples), field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def table_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def read_table(directory: Path, number: int, rows: int, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """The part of one shard, of ``rows`` rows.

    Raises:
        InputError: If it is missing or damaged.
    """
    kinds = {name: SCHEMA.field(name).type for name in columns}
    return load_table(directory / table_file(number), VERIFY, kinds, rows=rows)


def row_ids(directory: Path, number: int, rows: int) -> list[str]:
    """The ids of one shard's rows, in order. Raises as `read_table`."""
    found: list[str] = read_table(directory, number, rows, ["id"]).column("id").to_pylist()
    return found


def table_checksums(table: pa.Table) -> list[int]:
    """CRC-32 of every row of the table."""
    return [zlib.crc32(json.dumps(row, sort_keys=True).encode()) for row in table.to_pylist()]


def _preview(text: Any) -> str:
    return str(text or "")[:PREVIEW]
