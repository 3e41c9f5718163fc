"""Hidden vectors made comparable: the pool's mean taken away, its few loud directions quietened.

    w(h) = (C + ridge * m * I)^(-1/2) (h - mean),     m = trace(C) / dimension

with mean and covariance C of the pool, so ``ridge`` is in units of the mean eigenvalue and means the same for any
layer and model: at 1, directions of above-average variance are shrunk to about equal size and those below it are
left nearly as they are; at infinity only the centring remains. The inner product of two whitened vectors is
Mahalanobis'. The statistics are all that is needed, so an index stores them and not the whitened vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapidun.attribution.inverse_root import inverse_root
from rapidun.attribution.similarity import Array, prepared
from rapidun.errors import ConfigError, InputError

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PoolStatistics:
    """Mean (dimension,) and covariance (dimension, dimension) of ``rows`` vectors, float64."""

    mean: _Floats
    covariance: _Floats
    rows: int

    @classmethod
    def of(cls, blocks: Iterable[npt.NDArray[np.generic]]) -> PoolStatistics:
        """Statistics of all rows of ``blocks``, each (rows, dimension), read once; nothing is kept of them.

        Blocks are merged by their means and scatter (Chan, Golub and LeVeque, 1983), so large means cost no digits.

        Raises:
            InputError: If there are no rows, or widths differ, or a value is not finite.
        """
        rows, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
        for block in blocks:
            values = _matrix(block)
            if not len(values):
                continue
            if not rows:
                mean, scatter = np.zeros(values.shape[1]), np.zeros((values.shape[1],) * 2)
            if values.shape[1] != len(mean):
                raise InputError(
                    f"Vectors of {values.shape[1]} values after vectors of {len(mean)}: one pool, one width"
                )
            own = values.mean(axis=0)
            apart, centred = own - mean, values - own
            scatter += centred.T @ centred + np.outer(apart, apart) * (rows * len(values) / (rows + len(values)))
            mean = mean + apart * (len(values) / (rows + len(values)))
            rows += len(values)
        if not rows:
            raise InputError("The statistics of no vectors: the pool is empty.")
        return cls(mean, scatter / rows, rows)


def whiten(
    vectors: npt.NDArray[np.generic],
    mean: npt.NDArray[np.generic],
    covariance: npt.NDArray[np.generic],
    ridge: float = 1.0,
) -> Array:
    """``(C + ridge * m * I)^(-1/2) (h - mean) * sqrt(m)`` of each row, (rows, dimension) float32.

    The factor ``sqrt(m)`` keeps the scale of the vectors; where the pool does not vary at all, they are only centred.

    Args:
        vectors: (rows, dimension).
        mean: (dimension,) of the pool.
        covariance: (dimension, dimension) of the pool.
        ridge: In units of the mean eigenvalue, positive; ``inf`` centres only.

    Raises:
        ConfigError: If ``ridge`` is not positive.
        InputError: If the shapes do not fit, or a value is not finite.
    """
    if not ridge > 0:
        raise ConfigError(f"ridge={ridge}: must be positive; 1 is the mean eigenvalue of the pool's covariance.")
    values, centre, spread = _matrix(vectors), np.asarray(mean, dtype=np.float64), _matrix(covariance)
    if values.shape[1:] != centre.shape or spread.shape != (len(centre), len(centre)):
        raise InputError(
            f"vectors {values.shape}, mean {centre.shape} and covariance {spread.shape} do not fit: "
            "expected (rows, d), (d,) and (d, d) of one model's hidden states."
        )
    if not np.isfinite(centre).all():
        raise InputError("The pool's mean is not finite. Collect the hidden states again.")
    return np.asarray((values - centre) @ inverse_root(spread, ridge), dtype=np.float32)


def whitened_similarity(
    queries: npt.NDArray[np.generic], pool: npt.NDArray[np.generic], statistics: PoolStatistics, ridge: float = 1.0
) -> Array:
    """Cosine of whitened vectors, (queries, pool) float32; a vector equal to the mean is similar to nothing.

    Raises:
        ConfigError: If ``ridge`` is not positive.
        InputError: If the shapes do not fit, or a value is not finite.
    """
    left, right = (whiten(part, statistics.mean, statistics.covariance, ridge) for part in (queries, pool))
    similarities: Array = prepared(left, "cosine") @ prepared(right, "cosine").T
    return similarities


def centred_similarity(queries: npt.NDArray[np.generic], pool: npt.NDArray[np.generic]) -> Array:
    """Cosine after taking away the pool's mean, (queries, pool) float32. Raises as `whitened_similarity`."""
    return whitened_similarity(queries, pool, PoolStatistics.of([pool]), float("inf"))


def _matrix(values: npt.NDArray[np.generic]) -> _Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2:
        raise InputError(f"Expected an array of shape (rows, dimension), got {found.shape}.")
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise InputError(f"Row {int(np.argmin(finite))} of the vectors is not finite. Collect it again.")
    return found
