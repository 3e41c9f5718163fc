"""Sub-linear search through FAISS (extra ``faiss``): rows fall into cells, and a query looks into the nearest only.

What the cells bring up is scored again with the stored vectors, so scores are exact and only a row's absence is a
matter of chance. Rows are unit vectors, 8 bits a value; the file ``faiss/NAME.index`` can be removed and made again.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rapidun.attribution.matrix import Matrix
from rapidun.attribution.ranking import Hits, IdsOf, TopScores, with_ids
from rapidun.attribution.similarity import prepared
from rapidun.errors import ConfigError, InputError
from rapidun.files import disk_error

_TRAINING_ROWS_PER_CELL = 64
_CANDIDATES = 4  # times k, scored again
_BLOCK_VALUES = 2**22  # 16 MiB of float32 candidates at a time


def faiss_file(directory: Path, name: str) -> Path:
    """Where the cells of matrix ``name`` are kept."""
    return directory / "faiss" / f"{name}.index"


def build_faiss(directory: Path, matrix: Matrix, *, cells: int | None = None) -> Path:
    """Make and write the cells of ``matrix``; they are held in memory meanwhile, a byte a value.

    Args:
        directory: The index.
        matrix: What to search.
        cells: Number of cells; None takes the root of the number of rows.

    Raises:
        ConfigError: If FAISS is not installed.
        OutputError: If the file cannot be written.
    """
    faiss = _faiss()
    cells = cells or max(1, round(math.sqrt(len(matrix))))
    built = faiss.index_factory(matrix.width, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
    count = min(len(matrix), cells * _TRAINING_ROWS_PER_CELL)
    chosen = np.linspace(0, len(matrix) - 1, count).astype(np.int64)
    built.train(prepared(matrix.vectors(chosen.tolist()), "cosine"))
    for _, block in matrix.blocks():
        built.add(prepared(block, "cosine"))
    path = faiss_file(directory, matrix.name)
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        faiss.write_index(built, str(beside))
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        raise disk_error(error if isinstance(error, OSError) else OSError(str(error)), path) from error
    return path


def approximate_search(
    directory: Path, matrix: Matrix, queries: npt.NDArray[np.generic], k: int, share: float, ids_of: IdsOf
) -> list[Hits]:
    """Both ends of each query's ranking by cosine, among the rows that were looked at.

    Args:
        directory: The index.
        matrix: Of which `build_faiss` made the cells.
        queries: (queries, width).
        k: Length of each list; fewer where the cells held too few rows.
        share: Of the cells to look into, above 0 and at most 1.
        ids_of: Row ids of positions.

    Raises:
        ConfigError: If FAISS is not installed or ``share`` is out of range.
        InputError: If there are no cells, or rows were added since.
    """
    faiss = _faiss()
    if not 0 < share <= 1:
        raise ConfigError(f"share={share}: give the share of cells to look into, above 0 and at most 1.")
    path = faiss_file(directory, matrix.name)
    if not path.is_file():
        raise InputError(f"{path}: no approximate index. Make one with Index.build_faiss({matrix.name!r}).")
    cells = faiss.read_index(str(path))
    if cells.ntotal != len(matrix):
        raise InputError(f"{path}: holds {cells.ntotal} rows of {len(matrix)}. Make it again with Index.build_faiss.")
    cells.nprobe = max(1, math.ceil(share * cells.nlist))
    asked = matrix.prepared(queries)
    best, worst = (_top(cells, matrix, sign * asked, k) for sign in (1.0, -1.0))
    return with_ids(best, worst, ids_of)


def _top(cells: Any, matrix: Matrix, queries: torch.Tensor, k: int) -> TopScores:
    """The k best of the candidates, scored exactly."""
    _, found = cells.search(np.ascontiguousarray(queries.numpy()), min(_CANDIDATES * k, len(matrix)))
    scores = np.full(found.shape, -np.inf, dtype=np.float32)
    wanted = np.unique(found[found >= 0])  # -1 where the cells held too few
    step = max(1, _BLOCK_VALUES // matrix.width)
    for start in range(0, len(wanted), step):
        block = wanted[start : start + step]
        products = queries.numpy() @ prepared(matrix.vectors(block.tolist()), "cosine").T
        row, place = np.nonzero((found >= block[0]) & (found <= block[-1]))
        scores[row, place] = products[row, np.searchsorted(block, found[row, place])]
    order = np.lexsort((found, -scores), axis=1)[:, :k]
    top = TopScores(len(queries), k)
    top.scores = torch.from_numpy(np.take_along_axis(scores, order, axis=1))
    top.positions = torch.from_numpy(np.take_along_axis(found, order, axis=1))
    return top


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ConfigError("approximate search needs FAISS: pip install 'rapidun[faiss]'.") from error
