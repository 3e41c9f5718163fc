"""Exact search of an index by several threads, each over its own shards; the lists are merged.

The k best of all rows are among the k best of each part, and scores do not depend on the part, so the result is that
of `rapidun.attribution.matrix.Matrix.search`, ties included.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from rapidun.attribution.ranking import Hits, TopScores, both_ends, checked_k, with_ids
from rapidun.attribution.similarity import Affine
from rapidun.attribution.store import Index
from rapidun.errors import ConfigError
from rapidun.settings.kinds import Similarity


def parallel_search(
    index: Index,
    queries: npt.NDArray[np.generic],
    k: int,
    workers: int,
    *,
    name: str = "gradient",
    similarity: Similarity = "cosine",
    affine: Affine | None = None,
) -> list[Hits]:
    """The k rows of highest and of lowest score for each query, as ``index.features(name).search``.

    Args:
        index: The index.
        queries: (queries, width).
        k: Length of each list, at least 1.
        workers: Threads; each holds a block of 4 MiB. Reading and multiplying run outside Python's lock.
        name: Of the matrix.
        similarity: ``"cosine"`` or ``"dot"``.
        affine: Map queries and rows before comparing.

    Raises:
        ConfigError: If ``workers`` or ``k`` is below 1, or there is no such matrix or similarity.
        InputError: If the queries are not (queries, width) or a value is not finite.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers}: give at least 1.")
    rankings = [part.ranking(queries, similarity, affine) for part in index.features(name).parts(workers)]
    best, worst = (TopScores(len(queries), checked_k(k)) for _ in range(2))
    with ThreadPoolExecutor(max_workers=len(rankings), thread_name_prefix="index-search") as pool:
        for high, low in pool.map(lambda part: both_ends(part.blocks(), part.queries, k), rankings):
            best.take(high.scores, high.positions)
            worst.take(low.scores, low.positions)
    return with_ids(best, worst, index.ids_of)
