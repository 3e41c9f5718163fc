"""Students: small models that predict a row's value from its text alone. Each kind is one registered class.

A student learns standardised values, (rows, tasks) with mean 0 and deviation 1 for each task, and predicts them. What
it needs to do so again later is a directory of safetensors and JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import Field

from rapidun.models.passes import Progress
from rapidun.models.sources import check_directory
from rapidun.registry import Registry
from rapidun.settings import names
from rapidun.settings.base import Section, make_options
from rapidun.valuation.features import HashedText, Row
from rapidun.valuation.fidelity import spearman

Scores = npt.NDArray[np.float32]


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

    options: ClassVar[type[Section]]
    """What ``student.options`` may say."""

    @classmethod
    def fit(cls, train: Labelled, validation: Labelled, options: Any, seed: int, progress: Progress) -> Student:
        """Fit to ``train``; stop where Spearman on ``validation`` no longer rises. ``options`` is of `options`."""

    @classmethod
    def load(cls, directory: Path, settings: Mapping[str, Any]) -> Student:
        """What `Student.save` wrote.

        Raises:
            InputError: If a file is missing or damaged.
        """


Strength = Annotated[float, Field(gt=0)]


class HashOptions(Section):
    """Of a student that reads `HashedText`."""

    buckets: int = Field(HashedText.buckets, ge=256, le=2**24, description="Of the hash, for prompt and answer each.")
    words: int = Field(HashedText.words, ge=1, le=5, description="Longest n-gram in words.")


STUDENTS: Registry[type[Student]] = Registry(names.STUDENTS)
register_student = STUDENTS.register
"""Decorates the class that ``--student NAME`` fits."""
student_kind = STUDENTS.__getitem__


def student_options(name: str, given: Mapping[str, Any]) -> Any:
    """The options of the kind called ``name``.

    Raises:
        ConfigError: If one is unknown or out of range.
        ModelError: If it would start from a model that is not there.
    """
    options = make_options(f"student {name!r}", student_kind(name).options, given)
    if source := getattr(options, "source", ""):
        check_directory(source, allow_pickle=False)
    return options


names.STUDENTS.rule = student_options


def known_students() -> list[str]:
    """Names of the kinds."""
    return sorted(STUDENTS)


def mean_spearman(predicted: Scores, actual: Scores) -> float:
    """Spearman averaged over tasks: what a student is stopped by."""
    return float(np.mean([spearman(predicted[:, task], actual[:, task]) for task in range(actual.shape[1])]))
