"""One shard: its rows through the model, once, into the tensors of every view; then onto disk.

A shard's file holds every view's tensors and two columns of checksums, ``crc32`` of each row's vectors and
``crc32.table`` of each row of its table, which say which row a damaged byte belongs to.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import torch
from safetensors.torch import save

from rapidun.attribution.scorer import ModelContext, Recorder
from rapidun.attribution.store.manifest import FileEntry, ShardFiles
from rapidun.attribution.store.names import mark_file, shard_file, table_file
from rapidun.attribution.store.plan import BuildPlan, Span
from rapidun.attribution.store.table import make_table, table_bytes, table_checksums
from rapidun.data import Batch, Example, collate, tokenize_rows
from rapidun.files import atomic_write, write_json
from rapidun.gradients.state import device_of
from rapidun.models.losses import run_decoder
from rapidun.models.modes import evaluating
from rapidun.models.passes import pass_batches

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
    recorders = [view.recorder(model, rows, plan.fitted[name]) for name, view in plan.manifest.views.items()]
    _pass_over(plan, examples, recorders, tick)
    columns = {name: values for recorder in recorders for name, values in recorder.columns().items()}
    table = make_table(span, rows, examples, columns)
    tensors = {name: values for recorder in recorders for name, values in recorder.tensors().items()}
    checksums = {
        CHECKSUM: torch.tensor(row_checksums(tensors, plan.manifest.matrices, len(rows)), dtype=torch.int64),
        TABLE_CHECKSUM: torch.tensor(table_checksums(table), dtype=torch.int64),
    }
    return ShardContent(span, {**tensors, **checksums}, table)


def _pass_over(
    plan: BuildPlan, examples: Sequence[Example], recorders: Sequence[Recorder], tick: Callable[[int], None] | None
) -> None:
    """All batches through the model, unless no view needs it."""
    if not any(recorder.measures or recorder.watches for recorder in recorders):
        return
    done = 0
    measured = any(recorder.measures for recorder in recorders)
    network = plan.model.loaded.model
    for places in pass_batches(network, examples, plan.manifest.max_tokens, backward=measured):
        batch = collate([examples[place] for place in places], plan.model.loaded.pad_token_id)
        run_batch(plan.model, recorders, batch, places)
        done += len(places)
        if tick is not None:
            tick(done)


def run_batch(model: ModelContext, recorders: Sequence[Recorder], batch: Batch, places: list[int]) -> None:
    """One pass of the model for all recorders: with a backward where one measures gradients, else forward alone."""
    for recorder in recorders:
        recorder.prepare(batch)
    with ExitStack() as stack:
        for recorder in recorders:
            stack.enter_context(recorder.during(batch, places))
        measuring = [recorder for recorder in recorders if recorder.measures]
        for recorder in measuring:
            recorder.measure(batch, places)
        if not measuring:
            _forward(model, batch)


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


@torch.no_grad()
def _forward(model: ModelContext, batch: Batch) -> None:
    network = model.loaded.model
    moved = batch.to(device_of(network))
    with evaluating(network):
        run_decoder(network, moved.input_ids, moved.attention_mask)


def _write(directory: Path, name: str, content: bytes) -> FileEntry:
    with atomic_write(directory / name, "wb") as file:
        file.write(content)
    return FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
