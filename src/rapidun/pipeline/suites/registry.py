"""Suites of `rapidun evaluate` by name: one registered class a file, which says what is read and what is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rapidun.data import Rows
from rapidun.pipeline.estimating import Piece
from rapidun.pipeline.inputs import RunModel
from rapidun.pipeline.reporter import Reporter
from rapidun.registry import Registry, check_whole
from rapidun.settings import names
from rapidun.settings.run import MeasureConfig
from rapidun.settings.suites import READS, Reads
from rapidun.stats import Interval


class Suite(ABC):
    """One measurement of one model, and of those it is compared with. The methods are called in their order here.

    Args:
        config: The whole configuration.
        reporter: Hears of what is read.

    Whatever can be checked without a model is read and checked when it is made.
    """

    before: ClassVar[bool] = False
    """Whether the model without ``--adapter`` is measured too, where no retained model is."""
    stored: Any = None
    """What an earlier job measured of the retained model, where that was given in its place."""

    def __init__(self, config: MeasureConfig, reporter: Reporter) -> None:
        self.config, self.reporter = config, reporter

    @abstractmethod
    def rows(self, run_model: RunModel) -> Mapping[str, Sequence[Rows]]:
        """Each group's rows that this model takes, then other texts of theirs."""

    def marks(self) -> dict[str, str]:
        """Fingerprints of what is read besides the rows."""
        return {}

    def pieces(self, run_model: RunModel) -> list[Piece]:
        """The long work on one model, for the estimate of ``--dry-run``."""
        return []

    @abstractmethod
    def score(self, run_model: RunModel, done: Mapping[str, Any]) -> Any:
        """What one model says.

        Args:
            run_model: The model as it stands.
            done: What the models before it said: ``model`` comes first, then ``before`` and ``retained``.
        """

    @abstractmethod
    def write(self, scores: Mapping[str, Any], directory: Path) -> dict[str, Any]:
        """Write what every row came to; returns ``values`` and what else ``metrics.json`` holds."""


def plain(values: Mapping[str, Interval]) -> dict[str, Any]:
    """As JSON."""
    return {name: value.to_dict() for name, value in values.items()}


Kind = TypeVar("Kind", bound=type[Suite])
SUITES: Registry[type[Suite]] = Registry(names.SUITES)


def register_suite(name: str, reads: Reads | None = None) -> Callable[[Kind], Kind]:
    """Register the decorated class as the suite ``name``.

    Args:
        name: On the command line.
        reads: Which options it reads; of those that come with rapidun `rapidun.settings.suites` says so.

    Examples:
        >>> import rapidun
        >>> from rapidun.pipeline.inputs import read_rows, usable
        >>> from rapidun.pipeline.suites import Suite
        >>> @rapidun.register_suite("lengths")
        ... class Lengths(Suite):
        ...     def __init__(self, config, reporter):
        ...         super().__init__(config, reporter)
        ...         self.read = read_rows(config.data.evaluation, "rows", config.data, reporter)
        ...     def rows(self, run_model):
        ...         return {"rows": [usable(self.read, run_model, self.config.data, self.reporter)]}
        ...     def score(self, run_model, done):
        ...         return [len(example) - example.answer_start for example in run_model.tokenize(self.read)]
        ...     def write(self, scores, directory):
        ...         return {"values": {"tokens": {"value": max(scores["model"])}}}
        >>> loaded = rapidun.load_model("model")
        >>> rapidun.evaluate(loaded.model, loaded.tokenizer, "held_out.jsonl", suite="lengths")["values"]["tokens"]
        {'value': 13}
    """

    def enter(kind: Kind) -> Kind:
        check_whole(f"suite {name!r}", kind)
        READS.setdefault(name, reads or Reads())
        SUITES[name] = kind
        return kind

    return enter
