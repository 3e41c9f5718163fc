"""Fusion of rankings of which only the ends are known: what a search of a large index gives.

Reciprocal ranks as in `rapidun.influence.fusion`. A row that is not among the candidates of a ranking gets the mean of
the ranks that are left; so do candidates that tie with the last one, whose order says nothing. Where a ranking is
complete, the result is the exact fusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from rapidun.errors import InputError
from rapidun.index.hits import Hit, Hits
from rapidun.influence.fusion import RRF_CONSTANT


def fuse_hits(rankings: Sequence[Hits], rows: int, k: int, *, constant: float = RRF_CONSTANT) -> Hits:
    """The k rows at both ends of the fused ranking; scores are sums of reciprocal ranks.

    Args:
        rankings: Ends of several rankings of the same rows: views of one query, or of several.
        rows: Number of rows ranked.
        k: Rows at each end.
        constant: See `rapidun.influence.fusion.reciprocal_rank_fusion`.

    Returns:
        Ties stand in order of position. The lowest are chosen among all rows that some ranking named.

    Raises:
        InputError: If there is nothing to fuse.
    """
    if not rankings:
        raise InputError("Nothing to fuse: give at least one ranking.")
    ids = {hit.position: hit.id for hits in rankings for hit in (*hits.helpful, *hits.harmful)}
    positions = np.array(sorted(ids), dtype=np.int64)
    total = np.zeros(len(positions))
    for hits in rankings:
        total += 1.0 / (constant + _ranks(hits, positions, rows))
    found = [
        Hit(ids[int(position)], int(position), float(score)) for position, score in zip(positions, total, strict=True)
    ]
    best = sorted(found, key=lambda hit: (-hit.score, hit.position))[:k]
    worst = sorted(found, key=lambda hit: (hit.score, hit.position))[:k]
    return Hits(best, worst)


def _ranks(hits: Hits, positions: npt.NDArray[np.int64], rows: int) -> npt.NDArray[np.float64]:
    """Rank of each position, 1 = highest; ties share their mean rank."""
    top, bottom = _End(hits.helpful, rows), _End(hits.harmful, rows)
    rest = (top.known + 1 + rows - bottom.known) / 2
    ranks = np.full(len(positions), rest)
    for position, rank in bottom.ranks.items():
        ranks[np.searchsorted(positions, position)] = rows + 1 - rank
    for position, rank in top.ranks.items():
        ranks[np.searchsorted(positions, position)] = rank
    return ranks


class _End:
    """Ranks from one end, without the candidates that tie with the last unless the ranking is complete."""

    def __init__(self, hits: Sequence[Hit], rows: int) -> None:
        scores = np.array([hit.score for hit in hits])
        if len(hits) < rows and len(hits):
            last = scores[-1]
            hits = [hit for hit in hits if hit.score != last]
            scores = scores[: len(hits)]
        order = rankdata(np.abs(scores - scores[0])) if hits else []
        self.ranks = {hit.position: float(rank) for hit, rank in zip(hits, order, strict=True)}
        self.known = len(hits)
