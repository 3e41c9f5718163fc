"""The features of a pool of rows in memory: what an index holds, made and searched by the same code, not kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rapidun.attribution.context import ModelContext
from rapidun.attribution.features import Tick, features_of
from rapidun.attribution.matrix import Matrix, Shard
from rapidun.attribution.scorer import FeatureStore, Row, Scorer
from rapidun.attribution.similarity import PoolStatistics
from rapidun.attribution.tensors import MemoryTensor
from rapidun.data import Example
from rapidun.errors import ConfigError


class MemoryStore(FeatureStore):
    """Features of ``rows`` as float32: a gradient of 65,536 values takes 256 KiB a row.

    Args:
        model: What rows are looked at with.
        scorers: By name; defaults are settled for this model. None may have to be fitted: what is fitted is kept in an
            index.
        rows: With ``id``, ``prompt``, ``response``.
        examples: Their tokens.
        max_tokens: Most padded tokens in a batch.
        tick: Called after each batch with the number of rows done.

    Raises:
        ConfigError, ModelError: If a scorer does not fit the model.
    """

    name = "the rows in memory"

    def __init__(
        self,
        model: ModelContext,
        scorers: Mapping[str, Scorer],
        rows: Sequence[Row],
        examples: Sequence[Example],
        *,
        max_tokens: int,
        tick: Tick | None = None,
    ) -> None:
        self.scorers = {name: scorer.exact().resolved(model) for name, scorer in scorers.items()}
        self._rows, self.max_tokens = rows, max_tokens
        specs = (scorer.matrices(model) for scorer in self.scorers.values())
        self._widths = {name: spec.width for matrices in specs for name, spec in matrices.items()}
        tensors, _ = features_of(model, self.scorers, {}, rows, examples, max_tokens=max_tokens, tick=tick)
        self._shard = Shard(0, len(rows), {name: MemoryTensor(values) for name, values in tensors.items()})

    def __len__(self) -> int:
        return len(self._rows)

    def shards(self) -> list[Shard]:
        """One."""
        return [self._shard]

    def features(self, name: str = "gradient") -> Matrix:
        """The matrix called ``name``. Raises ConfigError if there is none."""
        if name not in self._widths:
            raise ConfigError(f"{self.name}: no features {name!r}. There are {', '.join(self._widths)}.")
        return Matrix(name, self._widths[name], self.shards(), self.ids_of)

    def statistics(self, name: str) -> PoolStatistics:
        """Mean and covariance of a matrix."""
        return PoolStatistics.of(block for _, block in self.features(name).blocks())

    def fitted(self, scorer: str) -> Any:
        """Nothing."""
        return None

    def rows(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """Whole rows."""
        return [dict(self._rows[position]) for position in positions]
