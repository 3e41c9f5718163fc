"""Exact search of an index by several threads, each over its own shards; the lists are merged.

The k best of all rows are among the k best of each part, and scores do not depend on the part, so the result is that
of `rapidun.attribution.Matrix.search`, ties included.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from rapidun.attribution.matrix import Similarity
from rapidun.attribution.store import Affine, Hit, Hits, Index
from rapidun.errors import ConfigError


def parallel_search(
    index: Index,
    queries: npt.NDArray[np.generic],
    k: int,
    workers: int,
    *,
    view: str = "gradient",
    similarity: Similarity = "cosine",
    affine: Affine | None = None,
) -> list[Hits]:
    """The k rows of highest and of lowest score for each query, as ``index.view(view).search``.

    Args:
        index: The index.
        queries: (queries, width).
        k: Length of each list, at least 1.
        workers: Threads; each holds a block of 4 MiB. Reading and multiplying run outside Python's lock.
        view: Name of the matrix.
        similarity: ``"cosine"`` or ``"dot"``.
        affine: Map queries and rows before comparing.

    Raises:
        ConfigError: If ``workers`` or ``k`` is below 1, or there is no such view or similarity.
        InputError: If the queries are not (queries, width) or a value is not finite.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers}: give at least 1.")
    parts = index.view(view).parts(workers)
    with ThreadPoolExecutor(max_workers=len(parts), thread_name_prefix="index-search") as pool:
        found = pool.map(lambda part: part.search(queries, k, similarity, affine=affine), parts)
        return [merge(lists, k) for lists in zip(*found, strict=True)]


def merge(parts: Iterable[Hits], k: int) -> Hits:
    """One query's ranking from those of parts of the rows, which come in order of position."""
    parts = list(parts)
    helpful = [hit for part in parts for hit in part.helpful]
    harmful = [hit for part in parts for hit in part.harmful]
    return Hits(sorted(helpful, key=lambda hit: -hit.score)[:k], sorted(harmful, key=_score)[:k])


def _score(hit: Hit) -> float:
    return hit.score
