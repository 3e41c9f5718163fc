"""Rows that are good together, chosen greedily: maximal marginal relevance, facility location, or gradient matching.

With v the values scaled to [0, 1] over the candidates, and s_ij in [0, 1] how alike two rows are:

* ``mmr``: next is ``argmax_j  balance v_j - (1 - balance) max over chosen i of s_ij``
  (Carbonell and Goldstein, SIGIR 1998).
* ``facility``: the chosen set maximises ``sum_i v_i max over chosen j of s_ij``: every good row should have a chosen
  one near it. Submodular, so greedy choice reaches 1 - 1/e of the best (Nemhauser et al., 1978); gains only shrink, so
  those that were computed earlier are upper bounds and few are computed anew (Minoux, 1978).

With g_j the unit gradient of a row and t the task's:

* ``matching``: next is ``argmax_j  cos(g_j + sum of the chosen g_i, t)``. A row's own value counts all of its gradient,
  what is peculiar to it included; in a set that averages out, and what its rows have in common is left to agree with
  the task or not. As GRAD-MATCH (Killamsetty et al., ICML 2021) and greedy iterative geodesic ascent (Campbell and
  Broderick, ICML 2018), but without weights, since rows are trained on as they are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.registry import Registry
from rapidun.settings import names

Diversity = Callable[[Any, npt.NDArray[np.float64], int], list[int]]
MATCHING = "matching"
_BALANCE = 0.5
_SMALLEST = 1e-12
DIVERSITIES: Registry[Diversity] = Registry(names.DIVERSITIES)
register_diversity = DIVERSITIES.register
"""Decorates what ``--diversity NAME`` does."""
check_diversity = DIVERSITIES.__getitem__


def pick_diverse(name: str, features: Any, values: npt.NDArray[np.generic], count: int) -> list[int]:
    """Places of ``count`` of the rows (at most all), in the order in which they were chosen.

    Args:
        name: ``"mmr"``, ``"facility"`` or ``"matching"``.
        features: (rows, width) dense or sparse, rows of norm 1. Of texts, with inner products in [0, 1]; for
            ``matching`` float32 gradients.
        values: (rows,); for ``matching`` inner products of the gradients with the task's.
        count: How many.

    Raises:
        ConfigError: If the method is unknown.
    """
    return DIVERSITIES[name](features, np.asarray(values, dtype=np.float64), min(count, len(values)))


@register_diversity("mmr")
def mmr(features: Any, values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Maximal marginal relevance."""
    values = _scaled(values)
    nearest = np.zeros(len(values))
    left = np.ones(len(values), dtype=bool)
    picked: list[int] = []
    for _ in range(count):
        gains = np.where(left, _BALANCE * values - (1 - _BALANCE) * nearest, -np.inf)
        best = int(np.argmax(gains))
        picked.append(best)
        left[best] = False
        nearest = np.maximum(nearest, _alike(features, best))
    return picked


@register_diversity("facility")
def facility(features: Any, values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Facility location over the candidates, weighted by their values."""
    values = _scaled(values)
    covered = np.zeros(len(values))
    # with nothing chosen the gain of j is sum_i v_i s_ij: one product for all
    first = np.asarray(features @ (features.T @ values)).ravel()
    queue = [(-float(gain), row, 0) for row, gain in enumerate(first)]
    heapq.heapify(queue)
    picked: list[int] = []
    while len(picked) < count:
        _, row, computed_at = heapq.heappop(queue)
        alike = _alike(features, row)
        if computed_at == len(picked):
            picked.append(row)
            covered = np.maximum(covered, alike)
        else:
            gain = float(values @ np.maximum(alike - covered, 0))
            heapq.heappush(queue, (-gain, row, len(picked)))
    return picked


@register_diversity(MATCHING)
def matching(features: Any, values: npt.NDArray[np.float64], count: int) -> list[int]:
    """Gradient matching."""
    lengths = np.einsum("rk,rk->r", features, features, dtype=np.float64)
    along = np.zeros(len(values))  # inner products of every row with the sum of the chosen ones
    left = np.ones(len(values), dtype=bool)
    total = squared = 0.0  # of that sum: its inner product with the task's gradient, its own square
    picked: list[int] = []
    for _ in range(count):
        norms = np.sqrt(np.maximum(squared + 2 * along + lengths, _SMALLEST))
        best = int(np.argmax(np.where(left, (total + values) / norms, -np.inf)))
        picked.append(best)
        left[best] = False
        total += values[best]
        squared += 2 * along[best] + lengths[best]
        along += features @ features[best]
    return picked


def _scaled(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spread = np.ptp(values) if len(values) else 0.0
    return (values - values.min()) / spread if spread > 0 else np.ones_like(values)


def _alike(features: Any, row: int) -> npt.NDArray[np.float64]:
    """How alike every row is to one, (rows,)."""
    found = features @ features[row].T
    return np.asarray(found.todense() if hasattr(found, "todense") else found, dtype=np.float64).ravel()
