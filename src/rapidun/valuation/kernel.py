"""The kernel student: rows that read alike have like values. A second to fit, tens of microseconds a row.

    k(x, y) = ( <text(x), text(y)> + exp(-|surface(x) - surface(y)|^2 / 2d) ) / 2

with the hashed n-grams of `rapidun.valuation.features` and the d standardised numbers of its `surface`.
It is kernel ridge regression on standardised values through m landmark rows (Nystrom: Williams and Seeger, NIPS 2000).
With L L' = K_mm and Phi = K_nm L'^-1 the weights minimise ``|Phi w - y|^2 + alpha |w|^2``; where every row is a
landmark, that is kernel ridge itself. The alpha is the one of the least error with each row left out in turn, which has
a closed form and needs no rows kept apart: a small sample is learnt from whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import Field
from safetensors.numpy import save
from scipy.linalg import cholesky, solve_triangular

from rapidun.errors import InputError
from rapidun.files import atomic_write
from rapidun.models.passes import Progress
from rapidun.tensor_files import load_arrays
from rapidun.valuation.features import NAMES, HashedText, Row, surface
from rapidun.valuation.students import HashOptions, Labelled, Scores, Strength, register_student

ALPHAS = tuple(float(alpha) for alpha in 10 ** np.arange(-3, 2.5, 0.5))
LANDMARKS = 1000
_JITTER = 1e-6  # times the identity: alike rows make K_mm singular
_FILE = "kernel.safetensors"
_Floats = npt.NDArray[np.float64]


class Landmarks(NamedTuple):
    """The rows that new ones are compared with.

    Args:
        text: (landmarks, 2 x buckets), norm 1.
        surface: (landmarks, d) float32, standardised.
        mean: (d,) of what was learnt from.
        deviation: (d,); 1 where a feature does not vary.
    """

    text: sp.csr_matrix
    surface: npt.NDArray[np.float32]
    mean: npt.NDArray[np.float32]
    deviation: npt.NDArray[np.float32]

    def compared(self, text: sp.csr_matrix, raw: npt.NDArray[np.float32]) -> _Floats:
        """k of rows, given both their features, with every landmark, (rows, landmarks)."""
        standard = ((raw - self.mean) / self.deviation).astype(np.float64)
        own = self.surface.astype(np.float64)
        apart = (standard**2).sum(axis=1)[:, None] + (own**2).sum(axis=1) - 2 * standard @ own.T
        alike = np.exp(-apart.clip(min=0) / (2 * own.shape[1]))
        found: _Floats = ((text @ self.text.T).toarray() + alike) / 2
        return found


class KernelOptions(HashOptions):
    """Of the student ``kernel``."""

    alphas: list[Strength] = Field(list(ALPHAS), min_length=1, description="Strengths to choose from.")
    landmarks: int = Field(LANDMARKS, ge=2, description="Rows that the others are compared with, at most.")


@register_student("kernel")
@dataclass(frozen=True)
class KernelStudent:
    """``predict(rows) = k(rows, landmarks) @ weights + intercept``.

    Args:
        features: Rows to hashed text.
        landmarks: What they are compared with.
        weights: (landmarks, tasks) float32.
        intercept: (tasks,) float32.
        alpha: The strength that was chosen.
    """

    features: HashedText
    landmarks: Landmarks
    weights: Scores
    intercept: Scores
    alpha: float

    options: ClassVar = KernelOptions

    @classmethod
    def fit(
        cls, train: Labelled, validation: Labelled, options: KernelOptions, seed: int, progress: Progress
    ) -> KernelStudent:
        """The student whose alpha errs least on rows left out; validation rows are learnt from too."""
        features, alphas = HashedText(options.buckets, options.words), options.alphas
        rows, values = [*train.rows, *validation.rows], np.concatenate([train.values, validation.values])
        text, raw = features.text_only(rows), surface(rows)
        picked = np.sort(np.random.default_rng([seed, 9]).permutation(len(rows))[: options.landmarks])
        landmarks = _landmarks(text, raw, picked)
        progress(1, 2)
        intercept = values.mean(axis=0, dtype=np.float64)
        weights, alpha = _solved(landmarks.compared(text, raw), picked, values - intercept, alphas)
        progress(2, 2)
        return cls(features, landmarks, weights.astype(np.float32), intercept.astype(np.float32), alpha)

    def predict(self, rows: Sequence[Row]) -> Scores:
        """Standardised values, (rows, tasks) float32; equal up to rounding whatever the other rows."""
        found = [self._part(rows[start : start + LANDMARKS]) for start in range(0, len(rows), LANDMARKS)]
        return np.concatenate(found) if found else np.zeros((0, len(self.intercept)), dtype=np.float32)

    def _part(self, rows: Sequence[Row]) -> Scores:
        alike = self.landmarks.compared(self.features.text_only(rows), surface(rows))
        scores: Scores = (alike @ self.weights + self.intercept).astype(np.float32)
        return scores

    def settings(self) -> dict[str, Any]:
        """Hash, number of landmarks and strength."""
        return {"buckets": self.features.buckets, "words": self.features.words, "alpha": self.alpha,
                "landmarks": len(self.weights)}  # fmt: skip

    def save(self, directory: Path) -> None:
        """Write ``kernel.safetensors``."""
        text = self.landmarks.text
        arrays = {
            "weights": np.ascontiguousarray(self.weights),
            "intercept": self.intercept,
            "text_values": text.data.astype(np.float32),
            "text_columns": text.indices.astype(np.int64),
            "text_starts": text.indptr.astype(np.int64),
            "surface": np.ascontiguousarray(self.landmarks.surface),
            "surface_mean": self.landmarks.mean,
            "surface_deviation": self.landmarks.deviation,
        }
        with atomic_write(directory / _FILE, "wb") as file:
            file.write(save(arrays))

    @classmethod
    def load(cls, directory: Path, settings: Mapping[str, Any]) -> KernelStudent:
        """What `save` wrote."""
        features = HashedText(int(settings["buckets"]), int(settings["words"]))
        try:
            arrays = load_arrays(directory / _FILE, "Fit the student again.")
            weights, intercept = arrays["weights"], arrays["intercept"]
            text = sp.csr_matrix(
                (arrays["text_values"], arrays["text_columns"], arrays["text_starts"]),
                shape=(len(weights), 2 * features.buckets),
            )
            text.check_format()
            landmarks = Landmarks(text, arrays["surface"], arrays["surface_mean"], arrays["surface_deviation"])
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{directory / _FILE}: cannot be read ({error}). Fit the student again.") from error
        if landmarks.surface.shape != (len(weights), len(NAMES)) or weights.shape[1:] != intercept.shape:
            raise InputError(f"{directory / _FILE}: weights {weights.shape} do not fit config.json. Fit it again.")
        return cls(features, landmarks, weights, intercept, float(settings["alpha"]))


def _landmarks(text: sp.csr_matrix, raw: npt.NDArray[np.float32], picked: npt.NDArray[np.int64]) -> Landmarks:
    mean, deviation = raw.mean(axis=0), raw.std(axis=0)
    deviation = np.where(deviation > 0, deviation, np.float32(1)).astype(np.float32)
    own = ((raw[picked] - mean) / deviation).astype(np.float32)
    return Landmarks(text[picked].tocsr().astype(np.float32), own, mean, deviation)


def _solved(
    alike: _Floats, picked: npt.NDArray[np.int64], values: npt.NDArray[np.floating], alphas: Sequence[float]
) -> tuple[_Floats, float]:
    """Weights of the landmarks, (landmarks, tasks), and the alpha of the least leave-one-out error."""
    root = cholesky(alike[picked] + _JITTER * np.eye(len(picked)), lower=True)
    phi = solve_triangular(root, alike.T, lower=True).T  # rows, landmarks
    left, sizes, right = np.linalg.svd(phi, full_matrices=False)
    rotated = left.T @ values
    errors = []
    for alpha in alphas:
        kept = sizes**2 / (sizes**2 + alpha)
        leverage = (left**2 * kept).sum(axis=1)  # of each row on its own prediction
        missed = (values - left @ (kept[:, None] * rotated)) / (1 - leverage)[:, None].clip(min=_JITTER)
        errors.append(float((missed**2).mean()))
    alpha = alphas[int(np.argmin(errors))]
    weights = right.T @ ((sizes / (sizes**2 + alpha))[:, None] * rotated)
    return solve_triangular(root, weights, lower=True, trans="T"), alpha
