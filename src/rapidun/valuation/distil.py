"""ALinFiK: a sample with the teacher's values to a student, and how well the student does on rows it never saw.

The sample is split once: rows to learn from, rows to stop by, and rows to measure on (Pan et al., arXiv 2503.01052).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError
from rapidun.models.passes import Progress
from rapidun.valuation.features import HashedText, Row
from rapidun.valuation.fidelity import calibration, ndcg, over_rows, slope, spearman
from rapidun.valuation.ridge import RidgeOptions, RidgeStudent
from rapidun.valuation.students import Labelled, Scores, Student, student_kind, student_options

SMALLEST = 20
_VALIDATION, _TEST = 0.15, 0.15


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the teacher's values on the rows learnt from, each (tasks,) float32."""

    mean: Scores
    deviation: Scores

    @classmethod
    def of(cls, values: Scores) -> Scale:
        """A task whose values do not vary has deviation 1."""
        deviation = values.std(axis=0, dtype=np.float64).astype(np.float32)
        return cls(
            values.mean(axis=0, dtype=np.float64).astype(np.float32), np.where(deviation > 0, deviation, np.float32(1))
        )

    def standardised(self, values: Scores) -> Scores:
        """Mean 0 and deviation 1 where this scale was taken."""
        return ((values - self.mean) / self.deviation).astype(np.float32)

    def original(self, values: Scores) -> Scores:
        """Back to the teacher's scale."""
        return (values * self.deviation + self.mean).astype(np.float32)


@dataclass(frozen=True)
class HeldOut:
    """Rows that neither fitting nor stopping has seen: their ordinals, and both sides' values averaged over tasks."""

    ordinals: npt.NDArray[np.int64]
    student: npt.NDArray[np.float32]
    teacher: npt.NDArray[np.float32]

    def measures(self, seed: int = 0) -> dict[str, Any]:
        """Spearman and NDCG with intervals, the slope, and the calibration bins."""
        student, teacher = self.student, self.teacher
        return {
            "spearman": over_rows(spearman, student, teacher, seed=seed).to_dict(),
            "ndcg": over_rows(ndcg, student, teacher, seed=seed).to_dict(),
            "slope": slope(student, teacher),
            "calibration": [asdict(found) for found in calibration(student, teacher)],
        }


@dataclass(frozen=True)
class Distilled:
    """A fitted student, its scale, and what it does on held-out rows."""

    student: Student
    scale: Scale
    held_out: HeldOut
    sizes: dict[str, int]

    def predict(self, rows: Sequence[Row]) -> Scores:
        """Values in the teacher's scale, (rows, tasks) float32."""
        return self.scale.original(self.student.predict(rows))


def distil(
    kind: str,
    rows: Sequence[Row],
    values: Scores,
    ordinals: npt.NDArray[np.int64],
    *,
    options: Mapping[str, Any],
    seed: int,
    progress: Progress,
) -> Distilled:
    """Fit a student of ``kind`` to the teacher's values.

    Args:
        kind: ``ridge``, ``kernel``, ``encoder``, or a registered one.
        rows: The teacher sample.
        values: (rows, tasks) float32, the teacher's.
        ordinals: (rows,), their places in the pool.
        options: Of the kind.
        seed: Of the split and of the fit.
        progress: Called with ``(done, of)`` while it fits.

    Raises:
        InputError: If there are fewer than 20 rows, or the values do not vary.
        ConfigError: If the kind or an option is unknown.
    """
    maker, chosen = student_kind(kind), student_options(kind, options)
    check_sample(len(rows))
    if not (values.std(axis=0) > 0).any():
        raise InputError("the teacher gives every row of the sample the same value: there is nothing to learn.")
    train, validation, test = _split(len(rows), seed)
    scale = Scale.of(values[train])
    standard = scale.standardised(values)
    parts = [Labelled([rows[place] for place in part], standard[part]) for part in (train, validation)]
    student = maker.fit(parts[0], parts[1], chosen, seed, progress)
    predicted = scale.original(student.predict([rows[place] for place in test]))
    held_out = HeldOut(ordinals[test], predicted.mean(axis=1), values[test].mean(axis=1))
    return Distilled(student, scale, held_out, {"train": len(train), "validation": len(validation), "test": len(test)})


def check_sample(rows: int) -> None:
    """Refuse a sample that is too small to learn from, to stop by and to measure on.

    Raises:
        InputError: Naming both numbers.
    """
    if rows < SMALLEST:
        raise InputError(f"a sample of {rows} rows: a student needs {SMALLEST} at least. Give a larger --sample.")


def committee(rows: Sequence[Row], values: Scores, *, members: int = 5, seed: int = 0) -> Committee:
    """Ridge students of bootstrap resamples of a sample: where they disagree, the teacher should look next."""
    standard = Scale.of(values).standardised(values)
    generator = np.random.default_rng(seed)
    fitted = []
    for _ in range(members):
        picked = generator.integers(0, len(rows), len(rows))
        part = Labelled([rows[place] for place in picked], standard[picked])
        fitted.append(RidgeStudent.fit(part, part, RidgeOptions(alphas=[1.0]), seed, lambda done, of: None))
    return Committee(fitted)


@dataclass(frozen=True)
class Committee:
    """Students of one sample's resamples."""

    members: Sequence[RidgeStudent]

    def disagreement(self, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        """Standard deviation of the members' predictions, averaged over tasks, (rows,)."""
        features = HashedText()(rows)
        predicted = np.stack([member.of_features(features) for member in self.members])
        spread: npt.NDArray[np.float32] = predicted.std(axis=0).mean(axis=1).astype(np.float32)
        return spread


def _split(count: int, seed: int) -> tuple[npt.NDArray[np.int64], ...]:
    """Places to learn from, to stop by and to measure on, each ascending."""
    order = np.random.default_rng([seed, 5]).permutation(count)
    test, validation = max(5, round(_TEST * count)), max(5, round(_VALIDATION * count))
    parts = order[test + validation :], order[test : test + validation], order[:test]
    return tuple(np.sort(part) for part in parts)
