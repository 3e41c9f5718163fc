"""How two vectors compare: by inner product or cosine, plain or after whitening by their pool.

The cosine is taken in sketch space: for unit vectors with correlation rho its standard deviation is about
``(1 - rho^2) / sqrt(k)``, less than the plain product's. A zero vector has similarity 0 to everything.

Whitening makes vectors comparable by their pool: its mean taken away, its few loud directions quietened.

    w(h) = (C / m + ridge I)^(-1/2) (h - mean),     m = trace(C) / dimension

with mean and covariance C of the pool, so ``ridge`` is in units of the mean eigenvalue m and means the same for any
layer and model: at 1, directions of above-average variance are shrunk to about equal size and those below it are
left nearly as they are; at infinity only the centring remains. Dividing by m keeps the scale of the vectors. The inner
product of two whitened vectors is Mahalanobis'. The pool's moments are all that is needed, so an index stores them and
not the whitened vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from rapidun.errors import ConfigError, InputError
from rapidun.gradients.norms import divisors, row_norms
from rapidun.settings.kinds import Similarity

Array = npt.NDArray[np.float32]
_Floats = npt.NDArray[np.float64]


def check_similarity(similarity: str) -> None:
    """Refuse what is neither ``"cosine"`` nor ``"dot"``.

    Raises:
        ConfigError: Naming the value.
    """
    if similarity not in get_args(Similarity):
        raise ConfigError(f"similarity={similarity!r}: use one of {', '.join(get_args(Similarity))}.")


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Rows of norm 1, (rows, width) float32; zero rows stay zero."""
    return vectors / divisors(row_norms(vectors))


def checked(vectors: npt.NDArray[np.generic]) -> Array:
    """The vectors as (rows, width) float32.

    Raises:
        InputError: If there are not two dimensions, or a value is not finite; names the first such row.
    """
    values = np.require(vectors, dtype=np.float32, requirements="W")
    if values.ndim != 2:
        raise InputError(f"Expected an array of shape (rows, width), got {values.shape}.")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise InputError(f"Row {int(np.argmin(finite))} of the vectors is not finite. Collect it again.")
    return values


def prepared(vectors: npt.NDArray[np.generic], similarity: Similarity) -> Array:
    """(rows, k) float32, ready for a matrix product: unit rows for ``"cosine"``, zero rows left zero.

    Raises:
        InputError: As `checked`.
    """
    values = torch.from_numpy(checked(vectors))
    found: Array = (values if similarity == "dot" else unit(values)).numpy()
    return found


@dataclass(frozen=True)
class Affine:
    """A map of vectors before they are compared: ``(x - mean) @ matrix``; no matrix, only centred.

    Args:
        mean: (width,) float32.
        matrix: (width, any) float32, or None.
    """

    mean: Array
    matrix: Array | None = None

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """The mapped vectors, float32."""
        centred = vectors - torch.from_numpy(self.mean)
        return centred if self.matrix is None else centred @ torch.from_numpy(self.matrix)


@dataclass
class Moments:
    """Sum (width,) and second moment (width, width) of ``rows`` vectors, float64, as they are added up."""

    rows: int
    total: torch.Tensor
    second: torch.Tensor

    @classmethod
    def zero(cls, width: int) -> Moments:
        """Of no vectors."""
        return cls(0, torch.zeros(width, dtype=torch.float64), torch.zeros(width, width, dtype=torch.float64))

    def add(self, vectors: torch.Tensor) -> None:
        """Count (rows, width) vectors in."""
        values = vectors.double()
        self.rows += len(values)
        self.total += values.sum(dim=0)
        self.second += values.T @ values

    def statistics(self) -> PoolStatistics:
        """Mean and covariance."""
        rows = max(1, self.rows)
        mean = self.total.numpy() / rows
        return PoolStatistics(mean, self.second.numpy() / rows - np.outer(mean, mean), self.rows)


@dataclass(frozen=True, eq=False)
class PoolStatistics:
    """Mean (width,) and covariance (width, width) of ``rows`` vectors, float64."""

    mean: _Floats
    covariance: _Floats
    rows: int

    @classmethod
    def of(cls, blocks: Iterable[npt.NDArray[np.generic]]) -> PoolStatistics:
        """Statistics of all rows of ``blocks``, each (rows, width), read once; nothing is kept of them.

        Raises:
            InputError: If there are no rows, or widths differ, or a value is not finite.
        """
        moments: Moments | None = None
        for block in blocks:
            values = checked(block)
            moments = moments or Moments.zero(values.shape[1])
            if values.shape[1] != len(moments.total):
                raise InputError(f"Vectors of {values.shape[1]} values after {len(moments.total)}: one pool, one width")
            moments.add(torch.from_numpy(values))
        if moments is None or not moments.rows:
            raise InputError("The statistics of no vectors: the pool is empty.")
        return moments.statistics()

    def whitening(self, ridge: float = 1.0) -> Affine:
        """The map ``w`` above.

        Args:
            ridge: In units of the mean eigenvalue, positive; ``inf`` centres only.

        Raises:
            ConfigError: If ``ridge`` is not positive.
        """
        if not ridge > 0:
            raise ConfigError(f"ridge={ridge}: must be positive; 1 is the mean eigenvalue of the pool's covariance.")
        mean = self.mean.astype(np.float32)
        scale = float(np.trace(self.covariance)) / len(mean)
        if not np.isfinite(ridge) or not scale > 0:  # a pool that does not vary is only centred
            return Affine(mean)
        values, directions = np.linalg.eigh(self.covariance / scale)
        roots = np.sqrt(np.maximum(values, 0.0) + ridge)
        return Affine(mean, np.asarray((directions / roots) @ directions.T, dtype=np.float32))


def whiten(vectors: npt.NDArray[np.generic], statistics: PoolStatistics, ridge: float = 1.0) -> Array:
    """``w(h)`` of each row, (rows, width) float32.

    Raises:
        ConfigError: If ``ridge`` is not positive.
        InputError: If the shapes do not fit, or a value is not finite.
    """
    values = checked(vectors)
    if values.shape[1:] != statistics.mean.shape:
        raise InputError(
            f"vectors {values.shape} and a pool of width {len(statistics.mean)} do not fit: expected hidden states of "
            "one model."
        )
    found: Array = statistics.whitening(ridge)(torch.from_numpy(values)).numpy()
    return found


def whitened_similarity(
    queries: npt.NDArray[np.generic], pool: npt.NDArray[np.generic], statistics: PoolStatistics, ridge: float = 1.0
) -> Array:
    """Cosine of whitened vectors, (queries, pool) float32; a vector equal to the mean is similar to nothing.

    Raises:
        ConfigError: If ``ridge`` is not positive.
        InputError: If the shapes do not fit, or a value is not finite.
    """
    left, right = (whiten(part, statistics, ridge) for part in (queries, pool))
    similarities: Array = prepared(left, "cosine") @ prepared(right, "cosine").T
    return similarities


def centred_similarity(queries: npt.NDArray[np.generic], pool: npt.NDArray[np.generic]) -> Array:
    """Cosine after taking away the pool's mean, (queries, pool) float32. Raises as `whitened_similarity`."""
    return whitened_similarity(queries, pool, PoolStatistics.of([pool]), float("inf"))
