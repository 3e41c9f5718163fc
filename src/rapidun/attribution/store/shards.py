"""One shard: its rows through the model, once, into the features of every scorer; then onto disk.

A shard's table, its part of ``rows.parquet``, says who the rows are. Its file of tensors holds those of every scorer
and two columns of checksums, ``crc32`` of each row's vectors and ``crc32.table`` of each row of its table, which say
which row a damaged byte belongs to.

Of matrices that are compared centred, the sum and the second moment over all rows stand in one file for all shards:
``NAME.sum`` (width,), ``NAME.second`` (width, width), float64, and ``rows``. They are summed shard by shard in order of
number, from the stored vectors: nothing has to be kept for a resume, and other workers' shards give the same bytes.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from safetensors.torch import save

from rapidun.attribution.features import features_of
from rapidun.attribution.similarity import Moments, PoolStatistics
from rapidun.attribution.storage import decode
from rapidun.attribution.store.manifest import (
    FileEntry,
    Manifest,
    ShardFiles,
    mark_file,
    shard_file,
    table_file,
    write_entry,
)
from rapidun.attribution.store.plan import BuildPlan, Span
from rapidun.attribution.tensors import VERIFY, stored_tensors
from rapidun.data import Example, tokenize_rows
from rapidun.errors import InputError
from rapidun.files import write_json
from rapidun.table_files import load_table
from rapidun.tensor_files import load_tensors

CHECKSUM, TABLE_CHECKSUM = "crc32", "crc32.table"
HIDDEN_STATS = "hidden_stats.safetensors"
_BLOCK_ROWS = 1024
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


@dataclass(frozen=True)
class ShardContent:
    """A computed shard that is not on disk yet."""

    span: Span
    tensors: dict[str, torch.Tensor]
    table: pa.Table


def build_shard(plan: BuildPlan, number: int) -> ShardFiles:
    """Compute shard ``number`` of ``plan`` and write it; safe to call again, from any worker, in any order.

    Raises:
        InputError: If a row cannot be tokenised.
        ModelError: If gradients or hidden states are not finite.
        OutputError: If the disk is full or cannot be written.
    """
    return write_shard(plan, compute_shard(plan, number))


def compute_shard(plan: BuildPlan, number: int, tick: Callable[[int], None] | None = None) -> ShardContent:
    """The tensors and the table of one shard: one pass over its rows in batches of similar length.

    ``tick`` is called after each batch with the number of rows done.
    """
    span = plan.span(number)
    chosen = plan.rows_of(span)
    model = plan.model
    examples = tokenize_rows(chosen, model.loaded.tokenizer, model.template, plan.manifest.max_length)
    rows = list(chosen)
    tensors, columns = features_of(
        model, plan.manifest.views, plan.fitted, rows, examples, max_tokens=plan.max_tokens, tick=tick
    )
    table = make_table(span, rows, examples, columns)
    checksums = {
        CHECKSUM: torch.tensor(row_checksums(tensors, plan.manifest.matrices, len(rows)), dtype=torch.int64),
        TABLE_CHECKSUM: torch.tensor(table_checksums(table), dtype=torch.int64),
    }
    return ShardContent(span, {**tensors, **checksums}, table)


def write_shard(plan: BuildPlan, content: ShardContent) -> ShardFiles:
    """Write a shard's files, each beside its place and renamed, and then the mark that says it is whole."""
    span = content.span
    files = [
        write_entry(plan.directory, shard_file(span.number), save(content.tensors)),
        write_entry(plan.directory, table_file(span.number), table_bytes(content.table)),
    ]
    found = ShardFiles(number=span.number, first=span.first, rows=span.stop - span.start, files=files)
    write_json(plan.directory / mark_file(span.number), found.model_dump(mode="json"))
    return found


def row_checksums(tensors: Mapping[str, torch.Tensor], matrices: Iterable[str], rows: int) -> list[int]:
    """CRC-32 of each row's bytes in all matrices: values, scale and norm, in order of name."""
    parts = [tensors[name + part] for name in sorted(matrices) for part in ("", ".scale", ".norm")]
    views = [part.contiguous().reshape(rows, -1).view(torch.uint8).numpy() for part in parts if part.numel()]
    found = []
    for row in range(rows):
        checksum = 0
        for view in views:
            checksum = zlib.crc32(view[row].data, checksum)
        found.append(checksum)
    return found


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


def write_moments(directory: Path, manifest: Manifest) -> list[FileEntry]:
    """Write the file, where the index has such matrices. Shards that it covers already are not read again."""
    centred = [name for name, scorer in manifest.views.items() if scorer.centred]
    names = [name for name in manifest.matrices if name.split(".")[0] in centred]
    if not names:
        return []
    moments, rows = _started(directory, manifest, names)
    for shard in manifest.shards:
        if shard.first >= rows:
            for name in names:
                _add(directory, shard, name, moments[name])
    tensors = {"rows": torch.tensor(manifest.rows, dtype=torch.int64)}
    for name in names:
        tensors |= {f"{name}.sum": moments[name].total, f"{name}.second": moments[name].second}
    return [write_entry(directory, HIDDEN_STATS, save(tensors))]


def _started(directory: Path, manifest: Manifest, names: list[str]) -> tuple[dict[str, Moments], int]:
    """The moments of the shards before these and their number of rows, or zeros."""
    if manifest.files and (directory / HIDDEN_STATS).is_file():
        before = load_tensors(directory / HIDDEN_STATS, VERIFY)
        rows = int(before["rows"])
        if rows < manifest.rows:
            return {name: Moments(rows, before[f"{name}.sum"], before[f"{name}.second"]) for name in names}, rows
    return {name: Moments.zero(manifest.matrices[name].width) for name in names}, 0


def _add(directory: Path, shard: ShardFiles, name: str, moments: Moments) -> None:
    tensors = stored_tensors(directory / shard_file(shard.number))
    for start in range(0, shard.rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, shard.rows)
        stored, scale = (tensors[key].read(start, stop) for key in (name, f"{name}.scale"))
        moments.add(decode(stored, scale))


def read_statistics(directory: Path, name: str) -> PoolStatistics:
    """The pool's mean and covariance of one matrix.

    Raises:
        InputError: If the index has no such statistics.
    """
    stats = load_tensors(directory / HIDDEN_STATS, VERIFY) if (directory / HIDDEN_STATS).is_file() else {}
    if f"{name}.sum" not in stats:
        raise InputError(f"{directory}: no statistics of {name!r}. Build the index with --views hidden.")
    return Moments(int(stats["rows"]), stats[f"{name}.sum"], stats[f"{name}.second"]).statistics()
