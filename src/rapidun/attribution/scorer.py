"""A view: one way to look at every row. Each kind is one registered class in a file of its own.

The class holds the view's settings (a pydantic model: they stand in the manifest as they are) and makes a recorder
for every shard. A recorder takes part in the one pass over the shard's batches and gives the shard's tensors::

    @register_scorer("gradient")
    class GradientScorer(Scorer): ...
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict

from rapidun.attribution.store.storage import StoreDtype
from rapidun.data import Batch, Template
from rapidun.errors import ConfigError
from rapidun.models import LoadedModel, tokenizer_fingerprint

if TYPE_CHECKING:
    from rapidun.attribution.store.build import Progress
    from rapidun.attribution.store.plan import BuildPlan

NO_ADAPTER = "none"


@dataclass(frozen=True)
class ModelContext:
    """The model that rows are looked at with, and what tells it from others.

    Args:
        loaded: Model and tokenizer, the adapter already on it.
        template: The one template.
        adapter: The adapter's fingerprint; ``"none"`` without one.
        adapter_name: The adapter as the user named it.
        before: The model before training, where it is a model of its own.
    """

    loaded: LoadedModel
    template: Template
    adapter: str = NO_ADAPTER
    adapter_name: str = ""
    before: LoadedModel | None = None

    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of model, adapter, tokenizer and template."""
        return {
            "model": self.loaded.fingerprint,
            "adapter": self.adapter,
            "tokenizer": tokenizer_fingerprint(self.loaded.tokenizer),
            "template": self.template.fingerprint,
        }

    def origins(self) -> dict[str, str]:
        """Where each of them came from, as the user named it."""
        source = self.loaded.source
        return {"model": source, "adapter": self.adapter_name, "tokenizer": source, "template": self.template.name}


class MatrixSpec(BaseModel):
    """One vector a row: its length and how it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    dtype: StoreDtype


class Recorder:
    """One view of one shard while its batches pass by; a view overrides what it needs."""

    measures = False
    """Whether `measure` runs the model itself, forward and backward."""
    watches = False
    """Whether the view needs the model to run."""

    def prepare(self, batch: Batch) -> None:
        """Called before the model's pass over ``batch`` and outside of `during`: passes in here are not recorded."""

    def during(self, batch: Batch, places: list[int]) -> AbstractContextManager[None]:
        """Open around the model's pass over ``batch``, the shard's rows ``places``."""
        return nullcontext()

    def measure(self, batch: Batch, places: list[int]) -> None:
        """Run the model on ``batch``."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """The shard's tensors, after all batches; those with as many rows as the shard are checked row by row."""
        return {}

    def columns(self) -> dict[str, list[Any]]:
        """Columns for the table of rows."""
        return {}


class Scorer(BaseModel):
    """Settings of a view, and how its recorders are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def resolved(self, model: ModelContext) -> Scorer:
        """The same with every default settled for this model, as it goes into the manifest.

        Raises:
            ConfigError, ModelError: If the settings do not fit the model.
        """
        return self

    def matrices(self, model: ModelContext) -> dict[str, MatrixSpec]:
        """The matrices that the view (resolved) stores, by name."""
        return {}

    def fit(self, plan: BuildPlan, progress: Progress | None = None) -> Scorer:
        """Fit what is fitted once for the whole index, before its first shard, and write it into the directory.

        Returns:
            The settings with what was fitted named; a view that was fitted before checks that it is still there.
        """
        return self

    def planned(self) -> Scorer:
        """The settings without what `fit` added."""
        return self

    def load(self, directory: Path) -> Any:
        """What `fit` wrote, for `recorder`; None where nothing is fitted."""
        return None

    @abstractmethod
    def recorder(self, model: ModelContext, rows: Sequence[Mapping[str, Any]], fitted: Any) -> Recorder:
        """A recorder for a shard with these rows; ``fitted`` is what `load` gave."""


_VIEWS: dict[str, type[Scorer]] = {}
_ViewType = TypeVar("_ViewType", bound=type[Scorer])


def register_scorer(name: str) -> Callable[[_ViewType], _ViewType]:
    """Support a kind of view under ``name``."""

    def register(view: _ViewType) -> _ViewType:
        _VIEWS[name] = view
        return view

    return register


def scorer_class(name: str) -> type[Scorer]:
    """The class of the view called ``name``.

    Raises:
        ConfigError: If there is none; lists those there are.
    """
    if name not in _VIEWS:
        raise ConfigError(f"view {name!r} is unknown. Known: {', '.join(sorted(_VIEWS))}.")
    return _VIEWS[name]
