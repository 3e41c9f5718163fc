"""The map that quietens the loud directions of a pool of vectors, from their covariance alone.

    (C / m + ridge I)^(-1/2),     m = trace(C) / dimension

``ridge`` is in units of the mean eigenvalue m, so it means the same for any layer and model; dividing by m keeps the
scale of the vectors.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def inverse_root(covariance: Floats, ridge: float) -> Floats:
    """``(C / m + ridge)^(-1/2)``, symmetric; the identity for ``ridge`` = inf and where m = 0."""
    dimension = len(covariance)
    mean_eigenvalue = float(np.trace(covariance)) / dimension
    if not np.isfinite(ridge) or not mean_eigenvalue > 0:
        return np.eye(dimension)
    values, directions = np.linalg.eigh(covariance / mean_eigenvalue)
    roots = np.sqrt(np.maximum(values, 0.0) + ridge)
    return np.asarray((directions / roots) @ directions.T)
