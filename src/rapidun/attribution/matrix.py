"""One matrix of an index, shard by shard on disk: exact search, all scores, single vectors.

``score = <query, row>`` or, for ``"cosine"``, that over both norms (RapidIn, arXiv 2405.11724, eq. 5; in sketch space).
Rows are read in blocks of about 4 MiB, widened to float32 and multiplied with all queries at once; a row's scale and
norm, which are stored, are applied to the product and not to the row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from rapidun.attribution.hits import Hit, Hits
from rapidun.attribution.ranking import TopScores, both_ends
from rapidun.attribution.store.approximate import approximate_ends
from rapidun.attribution.store.storage import decode, divisors, row_norms
from rapidun.attribution.store.tensors import StoredTensor
from rapidun.errors import ConfigError, InputError

Similarity = Literal["cosine", "dot"]
Array = npt.NDArray[np.float32]
IdsOf = Callable[[list[int]], dict[int, str]]
BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class ShardMatrix:
    """One shard's share of a matrix: where its values, scales and norms lie, and the position of its first row."""

    first: int
    values: StoredTensor
    scale: StoredTensor
    norm: StoredTensor

    @property
    def rows(self) -> int:
        """Rows of the shard."""
        return self.values.shape[0]


@dataclass(frozen=True)
class Affine:
    """A map of vectors before they are compared: ``(x - mean) @ matrix``; no matrix, only centred.

    Args:
        mean: (width,) float32.
        matrix: (width, any) float32, or None.
    """

    mean: Array
    matrix: Array | None = None

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """The mapped vectors, float32."""
        centred = vectors - torch.from_numpy(self.mean)
        return centred if self.matrix is None else centred @ torch.from_numpy(self.matrix)


class Matrix:
    """Vectors of all rows under one name.

    Args:
        name: As in the manifest.
        width: Length of a vector.
        shards: In order of position.
        ids_of: Row ids of positions.
        directory: The index, where its approximate form is kept.
    """

    def __init__(
        self, name: str, width: int, shards: Sequence[ShardMatrix], ids_of: IdsOf, directory: Path | None = None
    ) -> None:
        self.name, self.width = name, width
        self._shards = shards
        self._ids_of = ids_of
        self._directory = directory

    def __len__(self) -> int:
        return sum(shard.rows for shard in self._shards)

    def parts(self, count: int) -> list[Matrix]:
        """The matrix in at most ``count`` parts of whole consecutive shards; positions stay those of the index."""
        cuts = sorted({round(place * len(self._shards) / count) for place in range(count + 1)})
        return [Matrix(self.name, self.width, self._shards[start:stop], self._ids_of) for start, stop in pairwise(cuts)]

    def search(
        self,
        queries: npt.NDArray[np.generic],
        k: int,
        similarity: Similarity = "cosine",
        *,
        affine: Affine | None = None,
        approximate: bool = False,
        share: float = 0.1,
    ) -> list[Hits]:
        """The k rows of highest and of lowest score for each query; all rows where k exceeds their number.

        Rows with equal scores stand in order of position.

        Args:
            queries: (queries, width).
            k: Length of each list, at least 1.
            similarity: ``"cosine"`` or ``"dot"``; a zero vector has similarity 0 to everything.
            affine: Map queries and rows before comparing; norms are then taken anew, row by row.
            approximate: Look into a part of the rows only, through `Index.build_faiss`; cosine without ``affine``.
            share: Of the cells to look into, where approximate.

        Raises:
            ConfigError: If ``similarity`` is unknown, ``k`` is below 1, or FAISS is asked for and not installed.
            InputError: If the queries are not (queries, width) or a value is not finite.
        """
        if k < 1:
            raise ConfigError(f"k={k}: ask for at least one row.")
        asked = self._prepared(queries, similarity, affine)
        if approximate:
            if similarity != "cosine" or affine is not None or self._directory is None:
                raise ConfigError("approximate search is by cosine, in an index on disk, without an affine map.")
            return ids_and_hits(*approximate_ends(self._directory, self, asked, k, share), self._ids_of)
        best, worst = both_ends(self._score_blocks(asked, similarity, affine), len(asked), k)
        return ids_and_hits(best, worst, self._ids_of)

    def scores(
        self,
        queries: npt.NDArray[np.generic],
        similarity: Similarity = "cosine",
        *,
        affine: Affine | None = None,
    ) -> Array:
        """Every score, (queries, rows) float32; for indexes whose scores fit in memory. Raises as `search`."""
        asked = self._prepared(queries, similarity, affine)
        found = np.empty((len(asked), len(self)), dtype=np.float32)
        for start, scores in self._score_blocks(asked, similarity, affine):
            found[:, start : start + scores.shape[1]] = scores.numpy()
        return found

    def scores_at(
        self,
        queries: npt.NDArray[np.generic],
        positions: Sequence[int],
        similarity: Similarity = "cosine",
        *,
        affine: Affine | None = None,
    ) -> Array:
        """Scores of some rows, (queries, positions) float32. Raises as `search` and `vectors`."""
        asked = self._prepared(queries, similarity, affine)
        rows = torch.from_numpy(self.vectors(positions))
        rows = rows if affine is None else affine(rows)
        if similarity == "cosine":
            rows = rows / divisors(row_norms(rows)).unsqueeze(1)
        return (asked @ rows.T).numpy()

    def vectors(self, positions: Sequence[int] | None = None) -> Array:
        """Stored vectors as float32, (positions, width); all of them without ``positions``.

        Raises:
            InputError: If a position is not in the index.
        """
        if positions is None:
            blocks = [decode(stored, scale).numpy() for _, stored, scale, _ in self._blocks()]
            return np.concatenate([np.empty((0, self.width), dtype=np.float32), *blocks])
        found = np.empty((len(positions), self.width), dtype=np.float32)
        for shard, places in self._by_shard(positions):
            rows = [int(positions[place]) - shard.first for place in places]
            found[places] = decode(shard.values.read_rows(rows), shard.scale.read()[rows]).numpy()
        return found

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """All vectors in order: ``(position of the first, (rows, width) float32)``."""
        for start, stored, scale, _ in self._blocks():
            yield start, decode(stored, scale).numpy()

    def mean(self) -> Array:
        """The mean vector, (width,) float32, summed in float64."""
        total = np.zeros(self.width)
        for _, block in self.blocks():
            total += block.sum(axis=0, dtype=np.float64)
        return (total / max(1, len(self))).astype(np.float32)

    def _prepared(self, queries: npt.NDArray[np.generic], similarity: str, affine: Affine | None) -> torch.Tensor:
        if similarity not in get_args(Similarity):
            raise ConfigError(f"similarity={similarity!r}: use one of {', '.join(get_args(Similarity))}.")
        if queries.ndim != 2 or queries.shape[1] != self.width:
            raise InputError(
                f"{self.name}: queries of shape {tuple(queries.shape)} for vectors of length {self.width}. Make them "
                "with the index's own model and sketch."
            )
        asked = torch.from_numpy(np.array(queries, dtype=np.float32))
        asked = asked if affine is None else affine(asked)
        finite = asked.isfinite().all(dim=1)
        if not bool(finite.all()):
            raise InputError(f"Query {int((~finite).nonzero()[0, 0])} is not finite.")
        return asked if similarity == "dot" else asked / divisors(row_norms(asked)).unsqueeze(1)

    def _score_blocks(
        self, queries: torch.Tensor, similarity: str, affine: Affine | None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        wide = torch.empty(0, self.width)
        for start, stored, scale, norm in self._blocks():
            if affine is None:
                wide = wide if len(wide) >= len(stored) else torch.empty(len(stored), self.width)
                scores = queries @ wide[: len(stored)].copy_(stored).T
                scores *= scale / divisors(norm) if similarity == "cosine" else scale
            else:
                mapped = affine(decode(stored, scale))
                scores = queries @ mapped.T
                if similarity == "cosine":
                    scores /= divisors(row_norms(mapped))
            yield start, scores

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """``(start, stored, scale, norm)`` in order; the memory of ``stored`` is used again for the next block."""
        reused: torch.Tensor | None = None
        for shard in self._shards:
            step = max(1, BLOCK_BYTES // max(1, shard.values.row_bytes))
            if reused is None or reused.shape[0] < min(step, shard.rows):
                reused = torch.empty(min(step, shard.rows), self.width, dtype=shard.values.dtype)
            scales, norms = shard.scale.read(), shard.norm.read()
            for start in range(0, shard.rows, step):
                stop = min(start + step, shard.rows)
                stored = reused[: stop - start]
                shard.values.read_into(stored, start)
                yield shard.first + start, stored, scales[start:stop], norms[start:stop]

    def _by_shard(self, positions: Sequence[int]) -> list[tuple[ShardMatrix, list[int]]]:
        """Each shard that holds some of ``positions``, with their places in that list."""
        starts = [shard.first for shard in self._shards]
        groups: dict[int, list[int]] = {}
        for place, position in enumerate(positions):
            number = bisect_right(starts, position) - 1
            if number < 0 or position >= starts[number] + self._shards[number].rows:
                raise InputError(f"{self.name}: no row {position}; rows are 0 to {len(self) - 1}.")
            groups.setdefault(number, []).append(place)
        return [(self._shards[number], places) for number, places in sorted(groups.items())]


def ids_and_hits(best: TopScores, worst: TopScores, ids_of: IdsOf) -> list[Hits]:
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
