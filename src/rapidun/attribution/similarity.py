"""Inner products between two sets of vectors: plain, or of their directions.

The cosine is taken in sketch space: for unit vectors with correlation rho its standard deviation is about
``(1 - rho^2) / sqrt(k)``, less than the plain product's. A zero vector has similarity 0 to everything.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError, InputError

Similarity = Literal["cosine", "dot"]
Array = npt.NDArray[np.float32]


def check_similarity(similarity: str) -> None:
    """Refuse what is neither ``"cosine"`` nor ``"dot"``.

    Raises:
        ConfigError: Naming the value.
    """
    if similarity not in get_args(Similarity):
        raise ConfigError(f"similarity={similarity!r}: use one of {', '.join(get_args(Similarity))}.")


def check_vectors(**vectors: npt.NDArray[np.generic]) -> None:
    """Refuse arrays that are not (rows, k) with one k.

    Raises:
        InputError: Naming the arrays and their shapes.
    """
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in vectors.items())
    if any(array.ndim != 2 for array in vectors.values()):
        raise InputError(f"Vectors must be arrays of shape (rows, k); got {shapes}.")
    if len({array.shape[1] for array in vectors.values()}) > 1:
        raise InputError(f"Vectors of different sketches cannot be compared: {shapes}. Collect them with one k.")


def prepared(vectors: npt.NDArray[np.generic], similarity: Similarity) -> Array:
    """(rows, k) float32, ready for a matrix product: unit rows for ``"cosine"``, zero rows left zero (trap 16).

    Raises:
        InputError: If a value is not finite; names the first such row.
    """
    values = np.asarray(vectors, dtype=np.float32)
    norms = row_norms(values)
    check_finite(norms)
    return values if similarity == "dot" else values / divisors(norms)[:, None]


def row_norms(values: Array) -> Array:
    """Euclidean norm of each row, (rows,) float32; in float64 only where a square would leave float32's range."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        norms: Array = np.sqrt(np.einsum("ij,ij->i", values, values))
        outside = ~((norms > 1e-12) & (norms < 1e18))
        norms[outside] = np.linalg.norm(values[outside].astype(np.float64), axis=1)
    return norms


def divisors(norms: Array) -> Array:
    """The norms, and 1 where a norm is 0: zero vectors stay zero."""
    return np.where(norms > 0, norms, np.float32(1))


def check_finite(norms: Array, first_row: int = 0) -> None:
    """Refuse vectors whose norms are not finite: a row that was never finished must not be ranked (trap 15).

    Raises:
        InputError: Naming the first such row, counted from ``first_row``.
    """
    finite = np.isfinite(norms)
    if not finite.all():
        raise InputError(f"Row {first_row + int(np.argmin(finite))} of the vectors is not finite. Collect it again.")
