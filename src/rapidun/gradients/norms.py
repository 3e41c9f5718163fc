"""Norms of rows that neither overflow nor flush to zero, and dividing by them."""

from __future__ import annotations

import math

import torch

_SAFE_NORMS = (1e-10, 1e15)  # sums of squares of norms within this range lost nothing that matters to float32


def row_norms(values: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each row, (rows,) float32.

    A row whose squares might leave float32's range (that of 1e-23 is 0, trap 7) is divided by its largest value
    first. On a CPU that slower way is taken only where a row needs it, and for that row alone.
    """
    if values.device.type != "cpu":
        return scaled_norms(values)
    norms: torch.Tensor = torch.linalg.vector_norm(values, dim=1)
    smallest, largest = _SAFE_NORMS
    if all(smallest < norm < largest for norm in norms.tolist()):
        return norms
    return torch.where((norms > smallest) & (norms < largest), norms, scaled_norms(values))


def scaled_norms(values: torch.Tensor) -> torch.Tensor:
    """As `row_norms`, every row divided by its largest value first; the same bits whatever rows stand beside it."""
    largest: torch.Tensor = torch.linalg.vector_norm(values, ord=math.inf, dim=1)
    scaled: torch.Tensor = torch.linalg.vector_norm(values / divisors(largest), dim=1)
    return largest * scaled


def divisors(norms: torch.Tensor) -> torch.Tensor:
    """(rows, 1): the norms, and 1 where a norm is 0, so that zero rows stay zero."""
    return torch.where(norms > 0, norms, 1.0).unsqueeze(1)
