"""A scorer: one way to score training rows for an answer. Each is one registered class in a file of its own.

The class says how a row's features come from a model and a batch (its recorder takes part in the one pass over the
batches), what is fitted beforehand, and how the features of a query and of a row compare. It also holds the settings,
as a pydantic model: they stand in an index's manifest as they are. An index, rows in memory and queries all call it::

    @register_scorer("gradient")
    class GradientScorer(Scorer): ...

A scorer's matrices are called after it, ``NAME`` or ``NAME.anything``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from pydantic import BaseModel, ConfigDict

from rapidun.attribution.context import ModelContext
from rapidun.attribution.matrix import Matrix, Shard
from rapidun.attribution.ranking import Ranking
from rapidun.attribution.similarity import PoolStatistics
from rapidun.attribution.storage import MatrixBuffer
from rapidun.data import Batch, Example
from rapidun.errors import ConfigError
from rapidun.registry import Registry, check_whole
from rapidun.settings import names
from rapidun.settings.kinds import Similarity, StoreDtype

Row = Mapping[str, Any]
Features = Mapping[str, torch.Tensor]
"""Tensors by name, as a recorder leaves them: rows first, but for postings."""
Progress = Callable[[int, int], None]
Role = Literal["train", "query"]


class MatrixSpec(BaseModel):
    """One vector a row: its length and how it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    dtype: StoreDtype


class Recorder:
    """One scorer's features of some rows while their batches pass by; a scorer overrides what it needs."""

    measures = False
    """Whether `measure` runs the model itself, forward and backward."""
    watches = False
    """Whether the scorer needs the model to run."""
    buffers: Sequence[MatrixBuffer] = ()
    """Where its matrices are kept."""

    def prepare(self, batch: Batch) -> None:
        """Called before the model's pass over ``batch`` and outside of `during`: passes in here are not recorded."""

    def during(self, batch: Batch, places: list[int]) -> AbstractContextManager[None]:
        """Open around the model's pass over ``batch``, the rows ``places``."""
        return nullcontext()

    def measure(self, batch: Batch, places: list[int]) -> None:
        """Run the model on ``batch``."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The features, after all batches; those with as many rows as there are rows are checked row by row."""
        return {name: values for buffer in self.buffers for name, values in buffer.tensors().items()}

    def columns(self) -> dict[str, list[Any]]:
        """Columns for the table of rows."""
        return {}


class Sample(Protocol):
    """What a scorer is fitted to: rows that are to be indexed, and where what was fitted is kept."""

    @property
    def directory(self) -> Path:
        """The index."""

    @property
    def model(self) -> ModelContext:
        """What rows are looked at with."""

    @property
    def max_tokens(self) -> int:
        """Padded tokens in a batch."""

    def sample(self, count: int, seed: int) -> list[Example]:
        """``count`` rows drawn by ``seed``, or all, tokenised."""


class FeatureStore(ABC):
    """The features of a pool of rows: an index on disk, or the same in memory.

    Args:
        name: What the pool is called in errors.
        scorers: Those whose features are there, by name.
        matrices: Those that they store, by name.
        max_tokens: Padded tokens in a batch of rows or queries.
    """

    name: str
    scorers: Mapping[str, Scorer]
    matrices: Mapping[str, MatrixSpec]
    max_tokens: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def shards(self) -> list[Shard]:
        """The rows' tensors, in order of position."""

    def features(self, name: str = "gradient") -> Matrix:
        """The matrix called ``name``. Raises ConfigError if there is none; lists those there are."""
        if name not in self.matrices:
            raise ConfigError(f"{self.name}: no features {name!r}. There are {', '.join(self.matrices)}.")
        return Matrix(name, self.matrices[name].width, self.shards(), self.ids_of)

    def statistics(self, name: str) -> PoolStatistics:
        """Mean and covariance of a matrix over all rows."""
        return PoolStatistics.of(block for _, block in self.features(name).blocks())

    def fitted(self, scorer: str) -> Any:
        """What the scorer fitted, as its `Scorer.load` gives it; None where nothing was."""
        return None

    @abstractmethod
    def rows(self, positions: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at ``positions``, in their order, with ``id``, ``prompt`` and ``response``, long ones cut."""

    def ids_of(self, positions: list[int]) -> dict[int, str]:
        """Row ids by position."""
        return {position: row["id"] for position, row in zip(positions, self.rows(positions), strict=True)}


class Scorer(BaseModel):
    """Settings of a scorer, how its features are made, and how they compare."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    titles: ClassVar[Mapping[str, str]] = {}
    """The names that a trace asks for it by, each with a title for tables; see `register_scorer`."""
    missing: ClassVar[str] = ""
    """What to do where a store lacks its features."""
    centred: ClassVar[bool] = False
    """Whether its vectors are compared by their pool's statistics, which an index then keeps."""

    @classmethod
    def configured(cls, settings: Mapping[str, Any]) -> Scorer:
        """The scorer with those of the settings that it knows.

        Raises:
            ConfigError: If they do not go together.
        """
        return cls(**{name: value for name, value in settings.items() if name in cls.model_fields})

    @classmethod
    def fits(cls, model: ModelContext) -> bool:
        """Whether this model alone gives the features."""
        return True

    def exact(self) -> Scorer:
        """The same with vectors kept as float32."""
        return self.model_copy(update={"dtype": "float32"}) if "dtype" in type(self).model_fields else self

    def resolved(self, model: ModelContext) -> Scorer:
        """The same with every default settled for this model, as it goes into the manifest.

        Raises:
            ConfigError, ModelError: If the settings do not fit the model.
        """
        return self

    def check(self, model: ModelContext) -> None:
        """Refuse queries by another model than this (resolved) scorer's, beyond the fingerprints of an index.

        Raises:
            FingerprintError: Naming both.
        """

    def matrices(self, model: ModelContext) -> dict[str, MatrixSpec]:
        """The matrices that the scorer (resolved) stores, by name."""
        return {}

    def fit(self, sample: Sample, progress: Progress | None = None) -> Scorer:
        """Fit what is fitted once for the whole index, before its first shard, and write it into the directory.

        Returns:
            The settings with what was fitted named; a scorer that was fitted before checks that it is still there.
        """
        return self

    def planned(self) -> Scorer:
        """The settings without what `fit` added."""
        return self

    def load(self, directory: Path) -> Any:
        """What `fit` wrote, for `recorder`; None where nothing is fitted."""
        return None

    def files(self, directory: Path) -> list[Path]:
        """The files that `fit` wrote."""
        return []

    @abstractmethod
    def recorder(self, model: ModelContext, rows: Sequence[Row], fitted: Any, role: Role = "train") -> Recorder:
        """A recorder of the features of ``rows``, which are trained on or asked about; ``fitted`` is from `load`."""

    def compare(self, by: str, asked: Features, store: FeatureStore, similarity: Similarity) -> Ranking:
        """How the store's rows score for the queries: the similarity of vectors, or their cosine less the pool's mean.

        Args:
            by: The name that was asked for, of `titles`.
            asked: The queries' features, exact.
            store: The rows'.
            similarity: How gradients compare; vectors that are `centred` compare by cosine whatever it says.
        """
        name = self.compared(by)
        if not self.centred:
            return store.features(name).ranking(asked[name].numpy(), similarity)
        return store.features(name).ranking(asked[name].numpy(), affine=store.statistics(name).whitening(float("inf")))

    def compared(self, by: str) -> str:
        """The matrix whose vectors a trace compares that asks by ``by``."""
        return by


SCORERS: Registry[type[Scorer]] = Registry(names.FEATURES)
"""By the name of their features in an index."""
_ScorerType = TypeVar("_ScorerType", bound=type[Scorer])


def register_scorer(name: str, titles: Mapping[str, str] | None = None) -> Callable[[_ScorerType], _ScorerType]:
    """Support a scorer.

    Args:
        name: What its features are called in an index.
        titles: Names that a trace asks for it by, with titles for tables; by default its name.

    Examples:
        >>> import rapidun, torch
        >>> from rapidun.attribution import MatrixSpec, Recorder, Scorer
        >>> from rapidun.attribution.storage import MatrixBuffer
        >>> class Counted(Recorder):
        ...     def __init__(self, rows):
        ...         counts = [[float(row["response"].count(vowel)) for vowel in "aeiou"] for row in rows]
        ...         self.buffers = [MatrixBuffer("letters", len(rows), 5, "float32")]
        ...         self.buffers[0].put(list(range(len(rows))), torch.tensor(counts))
        >>> @rapidun.register_scorer("letters")
        ... class Letters(Scorer):
        ...     def matrices(self, model):
        ...         return {"letters": MatrixSpec(width=5, dtype="float32")}
        ...     def recorder(self, model, rows, fitted, role="train"):
        ...         return Counted(rows)
        >>> query = {"prompt": "hey", "response": "moon robot number 0"}
        >>> rapidun.trace("model", rows="train.jsonl", query=query, by="letters", k=1)[0].row["response"]
        'moon robot number 0'
    """

    def register(scorer: _ScorerType) -> _ScorerType:
        check_whole(f"scorer {name!r}", scorer)
        SCORERS[name] = scorer
        scorer.titles = titles or {name: name}
        for by in scorer.titles:
            names.SCORERS.add(by)
        return scorer

    return register


def known_scorers() -> dict[str, type[Scorer]]:
    """Every registered scorer, by the name of its features."""
    return dict(SCORERS)


def scorer_titles() -> dict[str, str]:
    """Every name that a trace can ask by, with its title."""
    return {by: title for scorer in SCORERS.values() for by, title in scorer.titles.items()}


def owner_of(by: str) -> str:
    """The scorer that is asked for by ``by``: ``"hidden"`` of ``"answer"``.

    Raises:
        ConfigError: If there is none; lists those there are.
    """
    names.SCORERS.check(by)
    return next(name for name, scorer in SCORERS.items() if by in scorer.titles)


def configured_scorers(wanted: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Scorer]:
    """Scorers by name, each with those of the settings that it knows. Raises as `SCORERS`, `Scorer.configured`."""
    return {name: SCORERS[name].configured(settings) for name in wanted}
