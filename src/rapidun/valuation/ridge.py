"""The ridge student: a linear function of hashed n-grams and lengths. Seconds to fit, microseconds a row.

It minimises the squared error on standardised values plus ``alpha |w|^2``. The path of alphas goes from strong to weak
and stops where Spearman on the validation rows no longer rises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from safetensors.numpy import save
from sklearn.linear_model import Ridge

from rapidun.errors import InputError
from rapidun.files import atomic_write
from rapidun.models.passes import Progress
from rapidun.tensor_files import load_arrays
from rapidun.valuation.features import HashedText, Row
from rapidun.valuation.students import HashOptions, Labelled, Scores, Strength, mean_spearman, register_student

ALPHAS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_PATIENCE = 2
_FILE = "ridge.safetensors"


class RidgeOptions(HashOptions):
    """Of the student ``ridge``."""

    alphas: list[Strength] = Field(list(ALPHAS), min_length=1, description="Strengths to choose from.")


@register_student("ridge")
@dataclass(frozen=True)
class RidgeStudent:
    """``predict(rows) = features(rows) @ weights + intercept``.

    Args:
        features: Rows to features.
        weights: (width, tasks) float32.
        intercept: (tasks,) float32.
        alpha: The strength that was chosen.
    """

    features: HashedText
    weights: Scores
    intercept: Scores
    alpha: float

    options: ClassVar = RidgeOptions

    @classmethod
    def fit(
        cls, train: Labelled, validation: Labelled, options: RidgeOptions, seed: int, progress: Progress
    ) -> RidgeStudent:
        """The student whose alpha ranks the validation rows best; nothing in it is random."""
        features, alphas = HashedText(options.buckets, options.words), options.alphas
        seen, held = features(train.rows), features(validation.rows)
        kept: list[tuple[float, RidgeStudent]] = []  # what ranked the validation rows better than all before it
        since = 0
        for number, alpha in enumerate(sorted(alphas, reverse=True), 1):
            found = Ridge(alpha=alpha, solver="sparse_cg", tol=1e-5).fit(seen, train.values)
            weights, intercept = _parameters(found, train.values.shape[1])
            score = mean_spearman(held @ weights + intercept, validation.values)
            progress(number, len(alphas))
            if not kept or score > kept[-1][0]:
                kept.append((score, cls(features, weights, intercept, alpha)))
                since = 0
            elif (since := since + 1) >= _PATIENCE:
                break
        return kept[-1][1]

    def predict(self, rows: Sequence[Row]) -> Scores:
        """Standardised values, (rows, tasks) float32."""
        return self.of_features(self.features(rows))

    def of_features(self, features: Any) -> Scores:
        """Standardised values of rows whose features are there already."""
        scores: Scores = features @ self.weights + self.intercept
        return scores.astype(np.float32)

    def settings(self) -> dict[str, Any]:
        """Hash and strength."""
        return {"buckets": self.features.buckets, "words": self.features.words, "alpha": self.alpha}

    def save(self, directory: Path) -> None:
        """Write ``ridge.safetensors``."""
        with atomic_write(directory / _FILE, "wb") as file:
            file.write(save({"weights": np.ascontiguousarray(self.weights), "intercept": self.intercept}))

    @classmethod
    def load(cls, directory: Path, settings: Mapping[str, Any]) -> RidgeStudent:
        """What `save` wrote."""
        features = HashedText(int(settings["buckets"]), int(settings["words"]))
        try:
            arrays = load_arrays(directory / _FILE, "Fit the student again.")
            weights, intercept = arrays["weights"], arrays["intercept"]
        except KeyError as error:
            raise InputError(f"{directory / _FILE}: cannot be read ({error}). Fit the student again.") from error
        if intercept.ndim != 1 or weights.shape != (features.width, len(intercept)):
            raise InputError(f"{directory / _FILE}: weights {weights.shape} do not fit config.json. Fit it again.")
        return cls(features, weights, intercept, float(settings["alpha"]))


def _parameters(found: Ridge, tasks: int) -> tuple[Scores, Scores]:
    weights = np.asarray(found.coef_, dtype=np.float32).reshape(tasks, -1).T
    intercept = np.broadcast_to(np.asarray(found.intercept_, dtype=np.float32), (tasks,)).copy()
    return np.ascontiguousarray(weights), intercept
