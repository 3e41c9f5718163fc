"""Norms of rows that neither overflow nor flush to zero, and dividing by them."""

from __future__ import annotations

import math

import torch

_SAFE_SQUARES = (1e-20, 1e30)  # sums of squares within this range lost nothing that matters to float32


def row_norms(values: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each row, (rows,) float32.

    A row whose squares might leave float32's range (that of 1e-23 is 0, trap 7) is divided by its largest value
    first. On a CPU that slower way is taken only where a row needs it, and for that row alone.
    """
    if values.device.type != "cpu":
        return _scaled_norms(values)
    squares = torch.einsum("bi,bi->b", values, values)
    safe = (squares > _SAFE_SQUARES[0]) & (squares < _SAFE_SQUARES[1])
    if bool(safe.all()):
        return squares.sqrt()
    return torch.where(safe, squares.sqrt(), _scaled_norms(values))


def _scaled_norms(values: torch.Tensor) -> torch.Tensor:
    largest: torch.Tensor = torch.linalg.vector_norm(values, ord=math.inf, dim=1)
    scaled: torch.Tensor = torch.linalg.vector_norm(values / divisors(largest), dim=1)
    return largest * scaled


def divisors(norms: torch.Tensor) -> torch.Tensor:
    """(rows, 1): the norms, and 1 where a norm is 0, so that zero rows stay zero (trap 7)."""
    return torch.where(norms > 0, norms, 1.0).unsqueeze(1)
