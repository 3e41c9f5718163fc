"""How closely one set of values follows another: rank correlation, NDCG, calibration; with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import linregress, spearmanr
from sklearn.metrics import ndcg_score

from rapidun.errors import InputError
from rapidun.stats import Interval, bootstrap

_RESAMPLES = 1000
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CalibrationBin:
    """Rows of like prediction: their mean prediction, and the mean of what is true with its 95% interval."""

    predicted: float
    actual: float
    low: float
    high: float
    n: int


def spearman(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    """Spearman's rank correlation, ties by mean rank; 0 where one side is constant.

    Raises:
        InputError: If the lengths differ, there are fewer than 2 values, or one is not finite.
    """
    first, second = _checked(one, other)
    return float(spearmanr(first, second).statistic) if np.ptp(first) > 0 < np.ptp(second) else 0.0


def ndcg(predicted: npt.NDArray[np.generic], actual: npt.NDArray[np.generic], k: int | None = None) -> float:
    """Normalised discounted cumulative gain of the ranking by ``predicted``, in [0, 1].

    The gain of a row is its actual value, clipped at 0; the discount is ``1 / log2(1 + rank)``. Rows of equal
    prediction share their mean gain. 1 where no row has any gain.

    Args:
        predicted: (rows,).
        actual: (rows,).
        k: Count the first k places; all without it.

    Raises:
        InputError: As `spearman`.
    """
    guess, truth = _checked(predicted, actual)
    gains = truth.clip(min=0)
    return float(ndcg_score(gains[None], guess[None], k=k)) if gains.any() else 1.0


def over_rows(
    measure: Callable[[_Floats, _Floats], float],
    one: npt.NDArray[np.generic],
    other: npt.NDArray[np.generic],
    *,
    seed: int = 0,
) -> Interval:
    """``measure(one, other)`` with its bootstrap interval over rows."""
    return bootstrap(measure, *_checked(one, other), unit="rows", seed=seed, resamples=_RESAMPLES)


def calibration(
    predicted: npt.NDArray[np.generic], actual: npt.NDArray[np.generic], bins: int = 10
) -> list[CalibrationBin]:
    """Rows in ``bins`` groups of equal size by prediction, lowest first; fewer where there are few rows.

    The interval of the actual mean is the normal one, mean +- 1.96 standard errors.
    """
    guess, truth = _checked(predicted, actual)
    order = np.argsort(guess, kind="stable")
    found = []
    for part in np.array_split(order, min(bins, max(1, len(order) // 2))):
        mean = float(truth[part].mean())
        error = float(truth[part].std(ddof=1) / np.sqrt(len(part))) if len(part) > 1 else 0.0
        found.append(
            CalibrationBin(float(guess[part].mean()), mean, mean - 1.96 * error, mean + 1.96 * error, len(part))
        )
    return found


def slope(predicted: npt.NDArray[np.generic], actual: npt.NDArray[np.generic]) -> float:
    """Least-squares slope of actual on predicted: 1 is calibrated, less is overconfident; 0 for a constant."""
    guess, truth = _checked(predicted, actual)
    return float(linregress(guess, truth).slope) if np.ptp(guess) > 0 else 0.0


def _checked(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> tuple[_Floats, _Floats]:
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise InputError(f"values of shapes {first.shape} and {second.shape}: give two lists of 2 numbers or more.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("a value is not finite. Score the rows again.")
    return first, second
