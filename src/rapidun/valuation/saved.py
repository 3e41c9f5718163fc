"""A student on disk: ``config.json`` says what it is and of what, the rest is safetensors. No pickle.

The directory is written beside its place and renamed, so it is whole or not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapidun.errors import InputError
from rapidun.files import atomic_directory, sha256_of, write_json
from rapidun.reading import read_object
from rapidun.valuation.distil import Distilled, Scale
from rapidun.valuation.features import Row
from rapidun.valuation.students import Scores, Student, known_students, student_kind

CONFIG = "config.json"
_FORMAT = "rapidun-student"
_VERSION = 1
TOKENIZER = "teacher_tokenizer.json"


@dataclass(frozen=True)
class SavedStudent:
    """A student with its scale, the tasks it values rows for, and the fingerprints of what it learnt from."""

    student: Student
    scale: Scale
    tasks: list[str]
    config: dict[str, Any]
    path: Path

    def predict(self, rows: Sequence[Row]) -> Scores:
        """Values in the teacher's scale, (rows, tasks) float32."""
        return self.scale.original(self.student.predict(rows))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every file, in order of name."""
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        return sha256_of(
            part for file in files for part in (str(file.relative_to(self.path)).encode(), file.read_bytes())
        )

    def teacher_tokenizer(self) -> str | None:
        """The teacher's ``tokenizer.json``, where it was kept."""
        path = self.path / TOKENIZER
        return path.read_text(encoding="utf-8") if path.is_file() else None


def save_student(
    directory: Path,
    found: Distilled,
    kind: str,
    tasks: Sequence[str],
    about: Mapping[str, Any],
    tokenizer: str | None = None,
) -> Path:
    """Write a student's directory; one that is there is replaced.

    Args:
        directory: Where it goes.
        found: The student.
        kind: Its kind.
        tasks: In the order of its columns.
        about: Further keys of ``config.json``: ``fingerprints``, ``teacher``, ``measures``.
        tokenizer: The teacher's ``tokenizer.json``, so that a budget in tokens can be kept without the teacher.

    Raises:
        OutputError: If it cannot be written.
    """
    config = {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": kind,
        "settings": found.student.settings(),
        "tasks": list(tasks),
        "mean": found.scale.mean.astype(float).tolist(),
        "deviation": found.scale.deviation.astype(float).tolist(),
        "sizes": found.sizes,
        **about,
    }
    with atomic_directory(directory) as place:
        found.student.save(place)
        if tokenizer is not None:
            (place / TOKENIZER).write_text(tokenizer, encoding="utf-8")
        write_json(place / CONFIG, config)
    return directory


def load_student(directory: Path) -> SavedStudent:
    """What `save_student` wrote.

    Raises:
        InputError: If it is no student's directory, or a file is missing or damaged.
    """
    if not directory.is_dir():
        kinds = " or ".join(known_students())
        raise InputError(f"{directory}: no such student. --student takes {kinds}, or a saved student's directory.")
    if not (directory / CONFIG).is_file():
        raise InputError(f"{directory}: no {CONFIG} there. Give the student/ folder of a rapidun value run.")
    config = read_object(directory / CONFIG)
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise InputError(f"{directory}: {CONFIG} is not a student's. Give the student/ folder of a rapidun value run.")
    if config.get("version") != _VERSION:
        raise InputError(f"{directory}: student format {config.get('version')}; this rapidun reads {_VERSION}.")
    try:
        kind, settings, tasks = config["kind"], config["settings"], list(config["tasks"])
        scale = Scale(*(np.array(config[name], dtype=np.float32) for name in ("mean", "deviation")))
        student = student_kind(kind).load(directory, settings)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{directory / CONFIG}: {error!r}. Fit the student again.") from error
    if not (len(tasks),) == scale.mean.shape == scale.deviation.shape:
        raise InputError(f"{directory / CONFIG}: {len(tasks)} tasks and {len(scale.mean)} means. Fit it again.")
    return SavedStudent(student, scale, tasks, config, directory)
