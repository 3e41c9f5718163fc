"""One shard: its rows through the model, once, into the features of every scorer; then onto disk.

A shard's file holds every scorer's tensors and two columns of checksums, ``crc32`` of each row's vectors and
``crc32.table`` of each row of its table, which say which row a damaged byte belongs to.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import torch
from safetensors.torch import save

from rapidun.attribution.features import features_of
from rapidun.attribution.store.manifest import FileEntry, ShardFiles
from rapidun.attribution.store.names import mark_file, shard_file, table_file
from rapidun.attribution.store.plan import BuildPlan, Span
from rapidun.attribution.store.table import make_table, table_bytes, table_checksums
from rapidun.data import tokenize_rows
from rapidun.files import atomic_write, write_json

CHECKSUM, TABLE_CHECKSUM = "crc32", "crc32.table"


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
        _write(plan.directory, shard_file(span.number), save(content.tensors)),
        _write(plan.directory, table_file(span.number), table_bytes(content.table)),
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


def _write(directory: Path, name: str, content: bytes) -> FileEntry:
    with atomic_write(directory / name, "wb") as file:
        file.write(content)
    return FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
