"""Gradients to their inner products with fixed directions: exact LinFiK without a sketch and without their storage."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class Projection:
    """A dense sketch whose k values are a gradient's inner products with k given directions.

    Tensor by tensor, so that no row's whole gradient ever exists.

    Args:
        directions: (k, parameters) float32, in the order of `rapidun.gradients.Exact`.
        sizes: Number of values of each tracked tensor, in the model's order.
        squares: Add a column with the squared norm of what is projected.
    """

    def __init__(self, directions: torch.Tensor, sizes: Mapping[str, int], *, squares: bool = False) -> None:
        parts = torch.split(directions, list(sizes.values()), dim=1)
        self._parts = {name: part.T for name, part in zip(sizes, parts, strict=True)}
        self._squares = squares
        self._k = len(directions)

    @property
    def k(self) -> int:
        """One for each direction, and one for the squares."""
        return self._k + self._squares

    def dimension(self, sizes: Mapping[str, int]) -> int:
        """``k``, whatever is tracked."""
        return self.k

    def describe(self) -> dict[str, int | str]:
        """Kind, for the record; directions are not described."""
        return {"kind": "projection", "k": self.k}

    def add(self, total: torch.Tensor, name: str, gradients: torch.Tensor, sizes: Mapping[str, int]) -> None:
        """Add the tensor's share of every inner product."""
        # b p, p k -> b k
        total[:, : self._k] += gradients @ self._parts[name]
        if self._squares:
            total[:, self._k] += torch.einsum("bp,bp->b", gradients, gradients)
