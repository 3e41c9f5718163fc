"""An index in forms that other tools read: a plain NumPy array, or RapidIn's result file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.attribution.ranking import Ranking
from rapidun.attribution.store.index import Index
from rapidun.errors import ConfigError
from rapidun.files import atomic_write, remove_half_written, write_json
from rapidun.text import json_line

Progress = Callable[[int, int], None]


def export_numpy(index: Index, out: Path, *, name: str = "gradient", progress: Progress | None = None) -> list[Path]:
    """Write ``vectors.npy``, (rows, width) float32, and ``ids.jsonl``, one JSON string a line, in order.

    Block by block, so memory does not grow with the index; open the array with ``np.load(..., mmap_mode="r")``.

    Raises:
        ConfigError: If the index has no such matrix.
        OutputError: If the disk is full or cannot be written.
    """
    matrix = index.features(name)
    vectors, ids = out / "vectors.npy", out / "ids.jsonl"
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(matrix), matrix.width)}
    for path in (vectors, ids):
        remove_half_written(path)
    with atomic_write(vectors, "wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for start, block in matrix.blocks():
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
            if progress is not None:
                progress(start + len(block), len(matrix))
    with atomic_write(ids) as file:
        for row in index.column("id"):
            file.write(json_line(row) + "\n")
    return [vectors, ids]


def export_rapidin(
    index: Index, out: Path, ranking: Ranking, query_rows: Sequence[Mapping[str, Any]], *, keep: int = 1000
) -> Path:
    """Write ``influence_results_N.json`` in the layout of RapidIn's released code (arXiv 2405.11724).

    Each query ("0", "1", ...) has its row as ``test_data`` and two ranked lists of row positions, ``helpful`` and
    ``harmful``, with their values in ``*_infl``.

    Args:
        index: With gradients.
        out: A directory.
        ranking: Of the index's rows by gradients.
        query_rows: The queries' rows.
        keep: Length of each list.
    """
    if ranking.queries != len(query_rows):
        raise ConfigError(f"{len(query_rows)} query rows for {ranking.queries} query vectors: give one a vector.")
    config = index.gradient_scorer().model_dump(mode="json", exclude={"tracked"})
    content: dict[str, Any] = {"config": json.dumps(config)}
    for number, (hits, row) in enumerate(zip(ranking.hits(keep, index.ids_of), query_rows, strict=True)):
        ends = {"helpful": hits.helpful, "harmful": hits.harmful}
        content[str(number)] = {
            "test_data": {key: row.get(key) for key in ("id", "prompt", "response")},
            **{key: [hit.position for hit in end] for key, end in ends.items()},
            **{f"{key}_infl": [hit.score for hit in end] for key, end in ends.items()},
        }
    path = out / f"influence_results_{len(index)}.json"
    remove_half_written(path)
    write_json(path, content)
    return path
