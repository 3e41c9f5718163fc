"""Inner products between two sets of vectors: plain, or of their directions.

The cosine is taken in sketch space: for unit vectors with correlation rho its standard deviation is about
``(1 - rho^2) / sqrt(k)``, less than the plain product's. A zero vector has similarity 0 to everything.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import numpy.typing as npt
import torch

from rapidun.errors import ConfigError, InputError
from rapidun.gradients.norms import divisors, row_norms
from rapidun.settings.kinds import Similarity

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


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Rows of norm 1, (rows, width) float32; zero rows stay zero."""
    return vectors / divisors(row_norms(vectors))


def prepared(vectors: npt.NDArray[np.generic], similarity: Similarity) -> Array:
    """(rows, k) float32, ready for a matrix product: unit rows for ``"cosine"``, zero rows left zero.

    Raises:
        InputError: If a value is not finite; names the first such row.
    """
    values = torch.from_numpy(np.require(vectors, dtype=np.float32, requirements="W"))
    finite = values.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise InputError(f"Row {int(finite.int().argmin())} of the vectors is not finite. Collect it again.")
    found: Array = (values if similarity == "dot" else unit(values)).numpy()
    return found
