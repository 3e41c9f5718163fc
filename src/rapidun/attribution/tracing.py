"""Trace a generation to the training rows that most helped, and most harmed, it (RapidIn, eq. 5).

A positive score means that training on the row lowers the loss of the query. The training vectors may be a
memory-mapped array: they are read in blocks, and only each query's k best and k worst are kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rapidun.attribution.hits import Hit, Hits
from rapidun.attribution.similarity import (
    Array,
    Similarity,
    check_finite,
    check_similarity,
    check_vectors,
    divisors,
    prepared,
    row_norms,
)
from rapidun.errors import ConfigError, InputError

_BLOCK_VALUES = 2**24  # 64 MiB of training vectors at a time


def trace(
    query: npt.NDArray[np.generic],
    train: npt.NDArray[np.generic],
    train_ids: Sequence[str],
    k: int,
    *,
    similarity: Similarity = "cosine",
) -> list[Hits]:
    """The k most helpful and k most harmful training rows of each query; all of them where k exceeds their number.

    Rows with equal scores stand in training order.

    Args:
        query: (queries, k) gradient vectors.
        train: (rows, k) gradient vectors of the same sketch; may be a ``np.memmap``.
        train_ids: One id for each training row.
        k: Length of each list.
        similarity: ``"cosine"`` or ``"dot"``.

    Raises:
        ConfigError: If ``similarity`` is unknown or ``k`` is below 1.
        InputError: If the shapes do not match or a value is not finite.
    """
    check_similarity(similarity)
    check_vectors(query=query, train=train)
    if k < 1:
        raise ConfigError(f"k={k}: ask for at least one row.")
    if len(train_ids) != len(train):
        raise InputError(f"{len(train_ids)} ids for {len(train)} training rows: give one id a row.")
    queries = prepared(query, similarity)
    best = [_Top(k) for _ in queries]
    worst = [_Top(k) for _ in queries]
    step = max(1, _BLOCK_VALUES // max(1, train.shape[1]))
    for start in range(0, len(train), step):
        scores = _scores(queries, np.asarray(train[start : start + step], dtype=np.float32), start, similarity)
        for row, high, low in zip(scores, best, worst, strict=True):
            high.offer(row, start)
            low.offer(-row, start)
    return [
        Hits(_hits(high.positions, high.scores, train_ids), _hits(low.positions, -low.scores, train_ids))
        for high, low in zip(best, worst, strict=True)
    ]


def ranked(scores: npt.NDArray[np.generic], train_ids: Sequence[str], k: int) -> list[Hits]:
    """The two ends of every query's ranking, from scores that are there already; rows as in `trace`.

    Args:
        scores: (queries, rows), higher is better.
        train_ids: One id for each row.
        k: Length of each list.
    """
    found = []
    for row in np.asarray(scores, dtype=np.float32):
        high, low = _Top(k), _Top(k)
        high.offer(row, 0)
        low.offer(-row, 0)
        ends = (high.positions, high.scores), (low.positions, -low.scores)
        found.append(Hits(*(_hits(positions, values, train_ids) for positions, values in ends)))
    return found


def _scores(queries: Array, block: Array, start: int, similarity: Similarity) -> Array:
    """(queries, rows of the block); the small product is divided by the rows' norms, not the large block."""
    norms = row_norms(block)
    check_finite(norms, start)
    scores: Array = queries @ block.T
    if similarity == "cosine":
        scores /= divisors(norms)
    return scores


class _Top:
    """The k highest of a stream of scores, highest first, the earlier position first among equals."""

    def __init__(self, k: int) -> None:
        self._k = k
        self.scores: Array = np.empty(0, dtype=np.float32)
        self.positions: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def offer(self, scores: Array, start: int) -> None:
        """Take the scores of positions ``start`` onwards; every earlier position has been offered before."""
        candidates = self._above_the_bar(scores)
        found = np.concatenate([self.scores, scores[candidates]])
        positions = np.concatenate([self.positions, candidates + start])
        order = np.argsort(-found, kind="stable")[: self._k]
        self.scores, self.positions = found[order], positions[order]

    def _above_the_bar(self, scores: Array) -> npt.NDArray[np.int64]:
        """Positions, in order, of the scores that could enter: at least the block's own k-th best."""
        full = len(self.scores) == self._k
        candidates: npt.NDArray[np.int64] = np.flatnonzero(scores > (self.scores[-1] if full else -np.inf))
        if len(candidates) <= self._k:
            return candidates
        entering = scores[candidates]
        place = len(entering) - self._k
        bar = np.partition(entering, place)[place]
        at_least: npt.NDArray[np.int64] = candidates[entering >= bar]
        return at_least


def _hits(positions: npt.NDArray[np.int64], scores: Array, ids: Sequence[str]) -> list[Hit]:
    return [
        Hit(ids[position], position, score) for position, score in zip(positions.tolist(), scores.tolist(), strict=True)
    ]
