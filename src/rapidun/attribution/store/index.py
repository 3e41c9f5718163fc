"""`open_index`: a finished index, ready to be searched."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidun.attribution.matrix import Affine, Matrix, ShardMatrix
from rapidun.attribution.scorers.gradient import GradientScorer
from rapidun.attribution.scorers.hidden import HiddenScorer, matrix_name, whitening
from rapidun.attribution.scorers.lexical import LexicalSearch
from rapidun.attribution.store.approximate import build_faiss
from rapidun.attribution.store.manifest import Manifest, ShardFiles, load_manifest
from rapidun.attribution.store.names import shard_file, table_file
from rapidun.attribution.store.plan import check_same
from rapidun.attribution.store.table import read_table
from rapidun.attribution.store.tensors import stored_tensors
from rapidun.errors import ConfigError, FingerprintError
from rapidun.gradients import Sketch


class Index:
    """An index on disk; opening it reads the manifest alone."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._starts = [shard.first for shard in manifest.shards]

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
            stored = self.gradient_view().sketch
            if given != stored:
                raise FingerprintError(
                    f"{self.path}: this index holds the sketch {_said(stored)}, and {_said(given)} was given. Use the "
                    "index's own sketch, or build another index."
                )

    def gradient_view(self) -> GradientScorer:
        """Settings of the gradient view: its ``query_collector(model, path)`` and its sketch make the queries.

        Raises:
            ConfigError: If the index has none.
        """
        view = self.manifest.views.get("gradient")
        if not isinstance(view, GradientScorer):
            raise ConfigError(
                f"{self.path}: no gradient view in this index (it has {', '.join(self.manifest.views)}). Build one "
                "with --views gradient."
            )
        return view

    def view(self, name: str = "gradient") -> Matrix:
        """The matrix called ``name``; see `names`. ``"hidden"`` is the last layer's mean over the answer.

        Raises:
            ConfigError: If there is none; lists those there are.
        """
        name = self._matrix_name(name)
        if name not in self.manifest.matrices:
            raise ConfigError(f"{self.path}: no view {name!r} in this index. It has {', '.join(self.names)}.")
        shards = [self._shard_matrix(shard, name) for shard in self.manifest.shards]
        return Matrix(name, self.manifest.matrices[name].width, shards, self.ids_of, self.path)

    def lexical(self) -> LexicalSearch:
        """BM25 search.

        Raises:
            ConfigError: If the index has no lexical view.
        """
        if "lexical" not in self.manifest.views:
            raise ConfigError(f"{self.path}: no lexical view in this index. Build one with --views lexical.")
        return LexicalSearch(self.path, self.manifest, self.ids_of)

    def build_faiss(self, name: str = "gradient", *, cells: int | None = None) -> Path:
        """Make the approximate form of one matrix, for ``view(name).search(..., approximate=True)``.

        Raises:
            ConfigError: If FAISS is not installed, or the index has no such view.
        """
        return build_faiss(self.path, self.view(name), cells=cells)

    def whitening(self, name: str = "hidden", ridge: float = 1.0) -> Affine:
        """The map that whitens a hidden matrix by the pool; see `rapidun.attribution.scorers.hidden.whitening`."""
        return whitening(self.path, self._matrix_name(name), ridge)

    @property
    def names(self) -> list[str]:
        """Names for `view`."""
        return list(self.manifest.matrices)

    def rows(self, positions: Sequence[int], columns: list[str] | None = None) -> list[dict[str, Any]]:
        """Entries of ``rows.parquet`` at ``positions``, in their order; reads one shard's part at a time."""
        found: dict[int, dict[str, Any]] = {}
        for number, wanted in self._by_shard(positions).items():
            table = read_table(self.path / table_file(number), columns)
            first = self._starts[number]
            chosen = table.take([position - first for position in wanted]).to_pylist()
            found.update(zip(wanted, chosen, strict=True))
        return [found[position] for position in positions]

    def ids_of(self, positions: list[int]) -> dict[int, str]:
        """Row ids by position."""
        return {position: row["id"] for position, row in zip(positions, self.rows(positions, ["id"]), strict=True)}

    def column(self, name: str) -> Iterator[Any]:
        """One column of ``rows.parquet``, row by row."""
        for shard in self.manifest.shards:
            yield from read_table(self.path / table_file(shard.number), [name]).column(name).to_pylist()

    def _matrix_name(self, name: str) -> str:
        hidden = self.manifest.views.get("hidden")
        return (
            matrix_name(hidden.layers[-1], "answer") if name == "hidden" and isinstance(hidden, HiddenScorer) else name
        )

    def _by_shard(self, positions: Sequence[int]) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = {}
        for position in dict.fromkeys(positions):
            if not 0 <= position < len(self):
                raise ConfigError(f"{self.path}: no row {position}; rows are 0 to {len(self) - 1}.")
            groups.setdefault(bisect_right(self._starts, position) - 1, []).append(position)
        return groups

    def _shard_matrix(self, shard: ShardFiles, name: str) -> ShardMatrix:
        tensors = stored_tensors(self.path / shard_file(shard.number))
        return ShardMatrix(shard.first, tensors[name], tensors[f"{name}.scale"], tensors[f"{name}.norm"])


def open_index(path: str | Path, expect: Mapping[str, Any] | None = None) -> Index:
    """Open a finished index.

    Args:
        path: Its directory.
        expect: What it must have been built with: arguments of `Index.check`.

    Raises:
        InputError: If there is no finished index, or its manifest cannot be used.
        FingerprintError: If ``expect`` is not what it was built with; names both values.
    """
    index = Index(Path(path), load_manifest(Path(path)))
    index.check(**(expect or {}))
    return index


def _said(sketch: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sketch.items())
