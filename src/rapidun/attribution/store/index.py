"""`open_index`: a finished index, ready to be searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.attribution.matrix import Matrix, Shard, by_shard
from rapidun.attribution.ranking import Hits
from rapidun.attribution.scorer import FeatureStore
from rapidun.attribution.scorers.gradient import GradientScorer
from rapidun.attribution.similarity import PoolStatistics
from rapidun.attribution.store.approximate import approximate_search, build_faiss
from rapidun.attribution.store.manifest import Manifest, ShardFiles, load_manifest, shard_file
from rapidun.attribution.store.plan import check_same
from rapidun.attribution.store.shards import SCHEMA, read_statistics, read_table
from rapidun.attribution.tensors import VERIFY, stored_tensors
from rapidun.errors import ConfigError, FingerprintError, InputError
from rapidun.gradients import Sketch


class Index(FeatureStore):
    """An index on disk; opening it reads the manifest alone."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.name, self.scorers, self.max_tokens = str(path), manifest.views, manifest.max_tokens
        self.matrices = manifest.matrices

    def __len__(self) -> int:
        return self.manifest.rows

    def check(
        self,
        *,
        model: str | None = None,
        adapter: str | None = None,
        tokenizer: str | None = None,
        template: str | None = None,
        data: str | None = None,
        sketch: Sketch | Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse what the index was not built with. What is None is not looked at.

        Args:
            model: Fingerprint of the model.
            adapter: Of the adapter; ``"none"`` without one.
            tokenizer: Of the tokenizer.
            template: Of the template.
            data: Of the rows.
            sketch: The gradient view's sketch, or its description.

        Raises:
            FingerprintError: Naming both values.
        """
        check_same(
            self.manifest, self.path, model=model, adapter=adapter, tokenizer=tokenizer, template=template, data=data
        )
        if sketch is not None:
            given = dict(sketch) if isinstance(sketch, Mapping) else sketch.describe()
            stored = self.gradient_scorer().sketch
            if given != stored:
                raise FingerprintError(
                    f"{self.path}: this index holds the sketch {_said(stored)}, and {_said(given)} was given. Use the "
                    "index's own sketch, or build another index."
                )

    def gradient_scorer(self) -> GradientScorer:
        """Settings of the gradients.

        Raises:
            ConfigError: If the index has none.
        """
        scorer = self.scorers.get("gradient")
        if not isinstance(scorer, GradientScorer):
            raise ConfigError(
                f"{self.path}: no gradient features in this index (it has {', '.join(self.scorers)}). "
                f"{GradientScorer.missing}"
            )
        return scorer

    def shards(self) -> list[Shard]:
        """Every shard with its tensors, of which the headers alone are read."""
        return [self._shard(shard) for shard in self.manifest.shards]

    def _shard(self, shard: ShardFiles) -> Shard:
        path = self.path / shard_file(shard.number)
        tensors = stored_tensors(path)
        for name, spec in self.matrices.items():
            one = (shard.rows,)
            for part, shape in {name: (shard.rows, spec.width), f"{name}.scale": one, f"{name}.norm": one}.items():
                if part not in tensors or tensors[part].shape != shape:
                    raise InputError(f"{path}: holds no {part} of shape {list(shape)}. {VERIFY}")
        return Shard(shard.first, shard.rows, tensors)

    def features(self, name: str = "gradient") -> Matrix:
        """The matrix called ``name``; see `matrices`. ``"hidden"`` is the last layer's mean over the answer.

        Raises:
            ConfigError: If there is none; lists those there are.
        """
        return super().features(self._matrix_name(name))

    def statistics(self, name: str = "hidden") -> PoolStatistics:
        """Mean and covariance of a matrix of hidden states. Raises InputError if the index does not keep them."""
        return read_statistics(self.path, self._matrix_name(name))

    def fitted(self, scorer: str) -> Any:
        """What the scorer fitted, read from the directory."""
        return self.scorers[scorer].load(self.path)

    def build_faiss(self, name: str = "gradient", *, cells: int | None = None) -> Path:
        """Make the approximate form of one matrix, for `search_approximate`.

        Raises:
            ConfigError: If FAISS is not installed, or the index has no such matrix.
        """
        return build_faiss(self.path, self.features(name), cells=cells)

    def search_approximate(
        self, queries: npt.NDArray[np.generic], k: int, *, name: str = "gradient", share: float = 0.1
    ) -> list[Hits]:
        """Both ends by cosine among a part of the rows only; see `rapidun.attribution.store.approximate`."""
        return approximate_search(self.path, self.features(name), queries, k, share, self.ids_of)

    def rows(self, positions: Sequence[int], columns: Sequence[str] = SCHEMA.names) -> list[dict[str, Any]]:
        """Entries of ``rows.parquet`` at ``positions``, in their order; reads one shard's part at a time."""
        found: dict[int, dict[str, Any]] = {}
        spans = [(shard.first, shard.rows) for shard in self.manifest.shards]
        for number, places in by_shard(self.path, spans, positions):
            shard = self.manifest.shards[number]
            table = read_table(self.path, shard.number, shard.rows, columns)
            chosen = table.take([positions[place] - shard.first for place in places]).to_pylist()
            found.update(zip(places, chosen, strict=True))
        return [found[place] for place in range(len(positions))]

    def ids_of(self, positions: list[int]) -> dict[int, str]:
        """Row ids by position."""
        return {position: row["id"] for position, row in zip(positions, self.rows(positions, ["id"]), strict=True)}

    def column(self, name: str) -> Iterator[Any]:
        """One column of ``rows.parquet``, row by row."""
        for shard in self.manifest.shards:
            yield from read_table(self.path, shard.number, shard.rows, [name]).column(name).to_pylist()

    def _matrix_name(self, name: str) -> str:
        return self.scorers["hidden"].compared("answer") if name == "hidden" and name in self.scorers else name


def open_index(path: str | Path, expect: Mapping[str, Any] | None = None) -> Index:
    """Open a finished index.

    Args:
        path: Its directory.
        expect: What it must have been built with: arguments of `Index.check`.

    Raises:
        InputError: If there is no finished index, or its manifest cannot be used.
        FingerprintError: If ``expect`` is not what it was built with; names both values.

    Examples:
        >>> import rapidun
        >>> index = rapidun.open_index("index")  # rapidun index build --model model --data train.jsonl --out index
        >>> len(index), list(index.scorers)
        (12, ['gradient', 'hidden', 'lexical'])
        >>> hits = rapidun.trace(None, rows=index, query={"prompt": "hey", "response": "moon robot"}, k=1)
        >>> hits[0].row["response"].startswith("moon robot")
        True
    """
    index = Index(Path(path), load_manifest(Path(path)))
    index.check(**(expect or {}))
    return index


def _said(sketch: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sketch.items())
