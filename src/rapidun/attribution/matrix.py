"""One matrix of features, a vector a row, in shards on disk or in memory: all scores, single vectors.

``score = <query, row>`` or, for ``"cosine"``, that over both norms (RapidIn, arXiv 2405.11724, eq. 5; in sketch space).
Rows are read in blocks of about 4 MiB, widened to float32 and multiplied with all queries at once; a row's scale and
norm, which are stored, are applied to the product and not to the row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from rapidun.attribution.ranking import Hits, IdsOf, Ranking
from rapidun.attribution.similarity import Affine, Array, check_similarity, unit
from rapidun.attribution.storage import decode
from rapidun.attribution.tensors import RowTensor
from rapidun.errors import InputError
from rapidun.gradients.norms import divisors, row_norms
from rapidun.settings.kinds import Similarity

BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Shard:
    """Consecutive rows of a store: the position of the first, how many, and their tensors by name."""

    first: int
    rows: int
    tensors: Mapping[str, RowTensor]


class Matrix:
    """Vectors of all rows under one name: the tensors ``name``, ``name.scale`` and ``name.norm`` of every shard.

    Args:
        name: As in the manifest.
        width: Length of a vector.
        shards: In order of position.
        ids_of: Row ids of positions.
    """

    def __init__(self, name: str, width: int, shards: Sequence[Shard], ids_of: IdsOf) -> None:
        self.name, self.width = name, width
        self._shards = shards
        self._ids_of = ids_of

    def __len__(self) -> int:
        return sum(shard.rows for shard in self._shards)

    def parts(self, count: int) -> list[Matrix]:
        """The matrix in at most ``count`` parts of whole consecutive shards; positions stay those of the index."""
        cuts = sorted({round(place * len(self._shards) / count) for place in range(count + 1)})
        return [Matrix(self.name, self.width, self._shards[start:stop], self._ids_of) for start, stop in pairwise(cuts)]

    def ranking(
        self, queries: npt.NDArray[np.generic], similarity: Similarity = "cosine", affine: Affine | None = None
    ) -> Ranking:
        """The rows by their similarity to each query; rows with equal scores stand in order of position.

        Args:
            queries: (queries, width).
            similarity: ``"cosine"`` or ``"dot"``; a zero vector has similarity 0 to everything.
            affine: Map queries and rows before comparing; norms are then taken anew, row by row.

        Raises:
            ConfigError: If ``similarity`` is unknown.
            InputError: If the queries are not (queries, width) or a value is not finite.
        """
        asked = self.prepared(queries, similarity, affine)
        return Ranking(
            len(asked),
            len(self),
            partial(self._score_blocks, asked, similarity, affine),
            partial(self._scores_at, asked, similarity, affine),
        )

    def search(
        self,
        queries: npt.NDArray[np.generic],
        k: int,
        similarity: Similarity = "cosine",
        *,
        affine: Affine | None = None,
    ) -> list[Hits]:
        """The k rows of highest and of lowest score for each query. Raises as `ranking` and `Ranking.hits`."""
        return self.ranking(queries, similarity, affine).hits(k, self._ids_of)

    def scores(
        self, queries: npt.NDArray[np.generic], similarity: Similarity = "cosine", *, affine: Affine | None = None
    ) -> Array:
        """Every score, (queries, rows) float32; for as many rows as fit in memory. Raises as `ranking`."""
        return self.ranking(queries, similarity, affine).scores()

    def vectors(self, positions: Sequence[int] | None = None) -> Array:
        """Stored vectors as float32, (positions, width); all of them without ``positions``.

        Raises:
            InputError: If a position is not in the index.
        """
        if positions is None:
            blocks = [block for _, block in self.blocks()]
            return np.concatenate([np.empty((0, self.width), dtype=np.float32), *blocks])
        found = np.empty((len(positions), self.width), dtype=np.float32)
        spans = [(shard.first, shard.rows) for shard in self._shards]
        for number, places in by_shard(self.name, spans, positions):
            shard = self._shards[number]
            rows = [int(positions[place]) - shard.first for place in places]
            values, scale, _ = self._of(shard)
            found[places] = decode(values.read_rows(rows), scale.read()[rows]).numpy()
        return found

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """All vectors in order: ``(position of the first, (rows, width) float32)``."""
        for start, stored, scale, _ in self._blocks():
            yield start, decode(stored, scale).numpy()

    def prepared(
        self, queries: npt.NDArray[np.generic], similarity: Similarity = "cosine", affine: Affine | None = None
    ) -> torch.Tensor:
        """Queries ready for a product with the rows, (queries, width or the map's) float32. Raises as `ranking`."""
        check_similarity(similarity)
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
        return asked if similarity == "dot" else unit(asked)

    def _score_blocks(
        self, queries: torch.Tensor, similarity: Similarity, affine: Affine | None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        wide = torch.empty(0, self.width)
        for start, stored, scale, norm in self._blocks():
            if affine is None:
                wide = wide if len(wide) >= len(stored) else torch.empty(len(stored), self.width)
                scores = queries @ wide[: len(stored)].copy_(stored).T
                scores *= scale / divisors(norm).squeeze(1) if similarity == "cosine" else scale
            else:
                mapped = affine(decode(stored, scale))
                scores = queries @ mapped.T
                if similarity == "cosine":
                    scores /= divisors(row_norms(mapped)).T
            yield start, scores

    def _scores_at(
        self, queries: torch.Tensor, similarity: Similarity, affine: Affine | None, positions: Sequence[int]
    ) -> Array:
        rows = torch.from_numpy(self.vectors(positions))
        rows = rows if affine is None else affine(rows)
        found: Array = (queries @ (unit(rows) if similarity == "cosine" else rows).T).numpy()
        return found

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """``(start, stored, scale, norm)`` in order; the memory of ``stored`` is used again for the next block."""
        reused: torch.Tensor | None = None
        for shard in self._shards:
            values, scale, norm = self._of(shard)
            step = max(1, BLOCK_BYTES // max(1, values.row_bytes))
            if reused is None or reused.shape[0] < min(step, shard.rows):
                reused = torch.empty(min(step, shard.rows), self.width, dtype=values.dtype)
            scales, norms = scale.read(), norm.read()
            for start in range(0, shard.rows, step):
                stop = min(start + step, shard.rows)
                stored = reused[: stop - start]
                values.read_into(stored, start)
                yield shard.first + start, stored, scales[start:stop], norms[start:stop]

    def _of(self, shard: Shard) -> tuple[RowTensor, RowTensor, RowTensor]:
        """Values, scales and norms of a shard's rows."""
        return tuple(shard.tensors[self.name + part] for part in ("", ".scale", ".norm"))  # type: ignore[return-value]


def by_shard(name: object, spans: Sequence[tuple[int, int]], positions: Sequence[int]) -> list[tuple[int, list[int]]]:
    """The number of each shard that holds some of ``positions``, with their places in that list.

    Args:
        name: What the rows are of, for the error.
        spans: Position of the first row and number of rows of each shard, in order.
        positions: Any, in any order.

    Raises:
        InputError: If a position is in no shard.
    """
    starts = [first for first, _ in spans]
    groups: dict[int, list[int]] = {}
    for place, position in enumerate(positions):
        number = bisect_right(starts, position) - 1
        if number < 0 or position >= sum(spans[number]):
            raise InputError(f"{name}: no row {position}; rows are 0 to {sum(spans[-1]) - 1 if spans else -1}.")
        groups.setdefault(number, []).append(place)
    return sorted(groups.items())
