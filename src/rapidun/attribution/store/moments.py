"""``hidden_stats.safetensors``: the sum and the second moment over all rows of matrices that are compared centred.

``NAME.sum`` (width,), ``NAME.second`` (width, width), float64, and ``rows``. Summed shard by shard in order of number,
from the stored vectors: nothing has to be kept for a resume, and shards made by other workers give the same bytes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from rapidun.attribution.similarity import Moments, PoolStatistics
from rapidun.attribution.storage import decode
from rapidun.attribution.store.manifest import FileEntry, Manifest, ShardFiles, shard_file, write_entry
from rapidun.attribution.tensors import VERIFY, stored_tensors
from rapidun.errors import InputError
from rapidun.tensor_files import load_tensors

HIDDEN_STATS = "hidden_stats.safetensors"
_BLOCK_ROWS = 1024


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
