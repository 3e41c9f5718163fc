"""Students: small models that predict a row's value from its text alone. Each kind is one registered class.

A student learns standardised values, (rows, tasks) with mean 0 and deviation 1 for each task, and predicts them. What
it needs to do so again later is a directory of safetensors and JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError
from rapidun.models.passes import Progress
from rapidun.registry import Registry, check_options
from rapidun.settings import names
from rapidun.valuation.features import Row
from rapidun.valuation.fidelity import spearman

Scores = npt.NDArray[np.float32]
_Options = TypeVar("_Options")


@dataclass(frozen=True)
class Labelled:
    """Rows with their standardised teacher values, (rows, tasks) float32."""

    rows: Sequence[Row]
    values: Scores

    def __len__(self) -> int:
        return len(self.rows)


class Student(Protocol):
    """A fitted student, and how students of its kind come to be."""

    def predict(self, rows: Sequence[Row]) -> Scores:
        """Standardised values, (rows, tasks) float32; a row's does not depend on the others."""

    def settings(self) -> dict[str, Any]:
        """What `config.json` says about it, apart from its kind."""

    def save(self, directory: Path) -> None:
        """Write everything that `load` needs, but the settings."""

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


STUDENTS: Registry[type[Student]] = Registry(names.STUDENTS)
register_student = STUDENTS.register
"""Decorates the class that ``--student NAME`` fits."""
student_kind = STUDENTS.__getitem__
names.STUDENTS.rule = lambda name, options: student_kind(name).check_options(options)


def known_students() -> list[str]:
    """Names of the kinds."""
    return sorted(STUDENTS)


def mean_spearman(predicted: Scores, actual: Scores) -> float:
    """Spearman averaged over tasks: what a student is stopped by."""
    return float(np.mean([spearman(predicted[:, task], actual[:, task]) for task in range(actual.shape[1])]))


def options_as(name: str, options: type[_Options], given: Mapping[str, Any]) -> _Options:
    """The options of the kind called ``name``.

    Raises:
        ConfigError: If one is unknown or out of range.
    """
    check_options(f"student {name!r}", options, given)
    return options(**given)


def check_alphas(kind: str, alphas: Sequence[float]) -> None:
    """Refuse strengths of which one is not above 0. Raises ConfigError."""
    if not alphas or min(map(float, alphas)) <= 0:
        raise ConfigError(f"student {kind}: alphas={list(alphas)}: give numbers above 0.")
