"""Students: small models that predict a row's value from its text alone. Each kind is one registered class.

A student learns standardised values, (rows, tasks) with mean 0 and deviation 1 for each task, and predicts them. What
it needs to do so again later is a directory of safetensors and JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError
from rapidun.settings import names
from rapidun.valuation.features import Row
from rapidun.valuation.fidelity import spearman

Scores = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Labelled:
    """Rows with their standardised teacher values, (rows, tasks) float32."""

    rows: Sequence[Row]
    values: Scores

    def __len__(self) -> int:
        return len(self.rows)


class Student(Protocol):
    """A fitted student."""

    def predict(self, rows: Sequence[Row]) -> Scores:
        """Standardised values, (rows, tasks) float32; a row's does not depend on the others."""

    def settings(self) -> dict[str, Any]:
        """What `config.json` says about it, apart from its kind."""

    def save(self, directory: Path) -> None:
        """Write everything that `load` needs, but the settings."""


class StudentKind(Protocol):
    """How students of a kind come to be; the class of the student itself."""

    @classmethod
    def fit(
        cls, train: Labelled, validation: Labelled, options: Mapping[str, Any], seed: int, progress: Progress
    ) -> Student:
        """Fit to ``train``; stop where Spearman on ``validation`` no longer rises.

        Raises:
            ConfigError: If an option is unknown or out of range.
        """

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse options before the teacher's long work.

        Raises:
            ConfigError: If one is unknown or out of range.
        """

    @classmethod
    def load(cls, directory: Path, settings: Mapping[str, Any]) -> Student:
        """What `Student.save` wrote.

        Raises:
            InputError: If a file is missing or damaged.
        """


_KINDS: dict[str, type[StudentKind]] = {}
_Kind = TypeVar("_Kind", bound=type[StudentKind])


def register_student(name: str) -> Callable[[_Kind], _Kind]:
    """Offer a class as ``--student NAME``."""

    def register(kind: _Kind) -> _Kind:
        names.STUDENTS.add(name)
        _KINDS[name] = kind
        return kind

    return register


def student_kind(name: str) -> type[StudentKind]:
    """The class of students called ``name``.

    Raises:
        ConfigError: If there is none; lists those there are.
    """
    return _KINDS[names.STUDENTS.check(name)]


names.STUDENTS.rule = lambda name, options: student_kind(name).check_options(options)


def known_students() -> list[str]:
    """Names of the kinds."""
    return sorted(_KINDS)


def mean_spearman(predicted: Scores, actual: Scores) -> float:
    """Spearman averaged over tasks: what a student is stopped by."""
    return float(np.mean([spearman(predicted[:, task], actual[:, task]) for task in range(actual.shape[1])]))


def check_options(kind: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options that a kind does not have.

    Raises:
        ConfigError: Naming the first, and those there are.
    """
    for name in options:
        if name not in known:
            raise ConfigError(f"student {kind!r} has no option {name!r}. It has: {', '.join(known)}.")
