"""How a store's rows score for some queries, block by block, and the rows at both ends, ties broken by position.

Scores come in blocks of rows. Each query keeps its k highest and k lowest; a block is looked at closely only if one of
its scores passes a query's present k-th. Memory does not depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rapidun.attribution.similarity import Array
from rapidun.errors import ConfigError

Blocks = Iterable[tuple[int, torch.Tensor]]
"""``(position of the first row, scores (queries, rows) float32)``, in order of position."""
IdsOf = Callable[[list[int]], dict[int, str]]
_OFFERED = 2048  # rows


@dataclass(frozen=True)
class Hit:
    """A training row: its id, its position in the training set, and its influence on the query."""

    id: str
    position: int
    score: float


@dataclass(frozen=True)
class Hits:
    """The two ends of one query's ranking: highest scores first, and lowest scores first."""

    helpful: list[Hit]
    harmful: list[Hit]


@dataclass(frozen=True)
class Ranking:
    """What one scorer says of some queries; higher is more likely behind the answer.

    Args:
        queries: How many.
        rows: How many rows are scored.
        blocks: Gives all scores anew.
        at: Positions to their scores, (queries, positions) float32, without reading the rows between.
    """

    queries: int
    rows: int
    blocks: Callable[[], Blocks]
    at: Callable[[Sequence[int]], Array]

    def hits(self, k: int, ids_of: IdsOf) -> list[Hits]:
        """The k rows at both ends, for each query; all rows where k exceeds their number.

        Raises:
            ConfigError: If ``k`` is below 1.
        """
        return with_ids(*both_ends(self.blocks(), self.queries, checked_k(k)), ids_of)

    def scores(self) -> Array:
        """Every score, (queries, rows) float32; for as many rows as fit in memory."""
        found = np.zeros((self.queries, self.rows), dtype=np.float32)
        for start, scores in self.blocks():
            found[:, start : start + scores.shape[1]] = scores.numpy()
        return found


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
        self.take(scores.gather(1, places), columns[places] + start)

    def take(self, scores: torch.Tensor, positions: torch.Tensor) -> None:
        """Take (queries, any) scores, in order of position among equals, of positions after all that were offered."""
        found, positions = torch.cat([self.scores, scores], dim=1), torch.cat([self.positions, positions], dim=1)
        # stable: what was kept stands before what is new
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


def checked_k(k: int) -> int:
    """``k``. Raises ConfigError if it is below 1."""
    if k < 1:
        raise ConfigError(f"k={k}: ask for at least one row.")
    return k


def both_ends(blocks: Blocks, queries: int, k: int) -> tuple[TopScores, TopScores]:
    """The highest and the (negated) lowest scores of a stream."""
    best, worst = TopScores(queries, k), TopScores(queries, k)
    for start, scores in _gathered(blocks, max(_OFFERED, 4 * k)):
        best.offer(scores, start)
        worst.offer(-scores, start)
    return best, worst


def _gathered(blocks: Blocks, rows: int) -> Iterator[tuple[int, torch.Tensor]]:
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


def with_ids(best: TopScores, worst: TopScores, ids_of: IdsOf) -> list[Hits]:
    """Both ends of every query's ranking, with row ids; ``worst`` holds negated scores."""
    positions = torch.cat([best.positions, worst.positions], dim=1).unique()
    ids = ids_of(positions[positions >= 0].tolist())
    return [
        Hits(
            _hits(best.positions[row].tolist(), best.scores[row].tolist(), ids),
            _hits(worst.positions[row].tolist(), (0.0 - worst.scores[row]).tolist(), ids),
        )
        for row in range(len(best.positions))
    ]


def _hits(positions: list[int], scores: list[float], ids: dict[int, str]) -> list[Hit]:
    # an approximate search may find fewer than k rows; the places that are left have no position
    pairs = zip(positions, scores, strict=True)
    return [Hit(ids[position], position, score) for position, score in pairs if position >= 0]
