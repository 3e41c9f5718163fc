"""Influence between positions: the activation of position p in the query against that of q in a training row.

A linear layer's gradient is ``sum_p g_p a_p^T``, so its inner product between two rows is the sum over pairs
``(p, q)`` of ``(a_p . a_q)(g_p . g_q)``: two matrix products of a layer's factors, no backward pass of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rapidun.attribution.token_norms import Normaliser
from rapidun.attribution.token_pairs import Pairs
from rapidun.data.batches import Example, collate, token_budget_batches
from rapidun.errors import ModelError
from rapidun.gradients.token_factors import FactorCollector, Factors


def position_pairs(
    collector: FactorCollector,
    query: Example,
    trains: Sequence[Example],
    chosen: Sequence[int],
    *,
    normalize: str,
    pad_token_id: int,
    max_tokens: int,
) -> list[Pairs]:
    """The pairs of each training row with the ``chosen`` positions of the query; the query is passed once."""
    asked = _Query(query, pad_token_id, normalize, chosen, collector)
    found: dict[int, Pairs] = {}
    for indices in token_budget_batches(trains, max_tokens):
        rows = [trains[index] for index in indices]
        step = _Step(asked, len(rows), max(len(row) for row in rows))
        collector(collate(rows, pad_token_id), step.receive)
        matrices, norms = step.finished()
        for place, index in enumerate(indices):
            positions = list(range(len(trains[index])))
            matrix = matrices[place, :, : len(positions)]
            found[index] = Pairs(matrix, list(chosen), positions, asked.norm, float(norms[place]))
    return [found[index] for index in range(len(trains))]


class _Query:
    """The query's factors at the chosen positions, already divided by what the normalisation asks."""

    def __init__(
        self, query: Example, pad: int, normalize: str, chosen: Sequence[int], collector: FactorCollector
    ) -> None:
        self.normalize = normalize
        self.chosen = len(chosen)
        self.factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._length, self._positions = len(query), list(chosen)
        self._normaliser = Normaliser(normalize)
        collector(collate([query], pad), self._receive)
        self.whole = self._normaliser.whole()
        self.norm = float(self._normaliser.finished_norms()[0])

    def _receive(self, factors: Factors) -> None:
        multiplier = self._normaliser.multipliers(factors.name, factors.norms()) * factors.magnitude
        kept = [call * self._length + position for call in range(factors.calls) for position in self._positions]
        self.factors[factors.name] = (
            factors.activations[0, kept],
            factors.output_gradients[0, kept] * multiplier,
        )


class _Step:
    """One batch of training rows: the growing (rows, query positions, train positions) pairs."""

    def __init__(self, query: _Query, rows: int, length: int) -> None:
        self._query = query
        self._shape = (rows, length)
        self._normaliser = Normaliser(query.normalize)
        self._total: torch.Tensor | None = None

    def receive(self, factors: Factors) -> None:
        """Add one tensor's share."""
        rows, length = self._shape
        a, g = self._query.factors[factors.name]
        # (rows x positions, query positions): one matrix product for all rows of the batch
        pairs = factors.activations.flatten(0, 1) @ a.T
        pairs *= factors.output_gradients.flatten(0, 1) @ g.T
        calls = len(a) // self._query.chosen
        folded = pairs.view(rows, factors.calls, length, calls, self._query.chosen).sum(dim=(1, 3))
        multiplier = self._normaliser.multipliers(factors.name, factors.norms()) * factors.magnitude
        folded *= multiplier[:, None, None]
        self._total = folded if self._total is None else self._total.add_(folded.to(self._total.device))

    def finished(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, query positions, train positions) and (rows,), on the CPU."""
        if self._total is None:
            raise ModelError("No tracked layer took part in the loss. Is the adapter merged or switched off?")
        total = self._total.cpu().transpose(1, 2)
        if self._query.normalize == "unit":
            total = total / (self._query.whole * self._normaliser.whole())[:, None, None]
        return total, self._normaliser.finished_norms()
