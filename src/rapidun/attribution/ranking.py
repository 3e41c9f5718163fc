"""Both ends of a stream of scores for many queries at once, with ties broken by position.

Scores come in blocks of rows. Each query keeps its k highest and k lowest; a block is looked at closely only if one of
its scores passes a query's present k-th. Memory does not depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

_OFFERED = 2048  # rows


class TopScores:
    """The k highest of a stream, highest first, the earlier position first among equals.

    Args:
        queries: Number of queries.
        k: How many are kept for each.
    """

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self.scores = torch.empty(queries, 0)
        self.positions = torch.empty(queries, 0, dtype=torch.int64)

    def offer(self, scores: torch.Tensor, start: int) -> None:
        """Take the scores (queries, rows) of positions ``start`` on; every earlier position was offered before."""
        entering, columns = self._entering(scores)
        if entering == 0:
            return
        scores = scores[:, columns]
        places = torch.topk(_keys(scores), entering, dim=1).indices  # by score, then by position: keys differ
        found = torch.cat([self.scores, scores.gather(1, places)], dim=1)
        positions = torch.cat([self.positions, columns[places] + start], dim=1)
        # stable: what was kept stands before what is new, and both are in order of position among equals
        order = torch.sort(found, dim=1, descending=True, stable=True).indices[:, : self._k]
        self.scores, self.positions = found.gather(1, order), positions.gather(1, order)

    def _entering(self, scores: torch.Tensor) -> tuple[int, torch.Tensor]:
        """How many of the block's scores any one query could take, and the places where some query could."""
        if self.scores.shape[1] < self._k:
            return min(self._k, scores.shape[1]), torch.arange(scores.shape[1])
        passing = scores > self.scores[:, -1:]
        most = int(passing.sum(dim=1).max()) if len(passing) else 0
        return min(self._k, most), passing.any(dim=0).nonzero().flatten()


def _keys(scores: torch.Tensor) -> torch.Tensor:
    """int64 keys in the order of (score, earlier position first): float32 bits made monotone, then the position."""
    bits = (scores + 0.0).view(torch.int32).to(torch.int64)  # -0.0 + 0.0 is 0.0
    ordered = torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return (ordered << 32) - torch.arange(scores.shape[1])


def both_ends(blocks: Iterable[tuple[int, torch.Tensor]], queries: int, k: int) -> tuple[TopScores, TopScores]:
    """The highest and the (negated) lowest scores of a stream of ``(start, scores (queries, rows) float32)``."""
    best, worst = TopScores(queries, k), TopScores(queries, k)
    for start, scores in _gathered(blocks, max(_OFFERED, 4 * k)):
        best.offer(scores, start)
        worst.offer(-scores, start)
    return best, worst


def _gathered(blocks: Iterable[tuple[int, torch.Tensor]], rows: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The same stream in blocks of at least ``rows`` rows, but the last: sorting few scores at a time is slow."""
    waiting: list[torch.Tensor] = []
    first = held = 0
    for start, scores in blocks:
        first = start if not waiting else first
        waiting.append(scores)
        held += scores.shape[1]
        if held >= rows:
            yield first, torch.cat(waiting, dim=1)
            waiting, held = [], 0
    if waiting:
        yield first, torch.cat(waiting, dim=1)
