"""Influence between predicted tokens: ``<grad l_i(s)/G_s, grad l_j(t)/G_t>`` (RapidIn, arXiv 2405.11724, eq. 6-8).

Each answer token's loss has a backward pass of its own. Its row is repeated once for each token, with loss on that
token alone and nothing after it (later tokens cannot matter to a causal model), and many such copies share a pass.
All copies of a row have the same activations, so only the output gradients are kept for each: for a linear layer

    <grad_i, grad_j> = sum_{p,q} (a_p . a_q)(g_ip . g_jq)

``G_s``, tensor by tensor, is the norm of the row's whole gradient: the sum over tokens is the influence of the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from rapidun.data.batches import IGNORE_INDEX, Example, collate, token_budget_batches
from rapidun.gradients.token_factors import FactorCollector, Factors, Normaliser

Pairs = tuple[torch.Tensor, list[int], float, float]
"""Of one training row: (query tokens, train tokens) float32 on the CPU; places of the train tokens in its
``input_ids``; norms of the query's and of the row's whole gradient."""
_MAX_VALUES = 2**27  # 512 MiB of the query's output gradients at a time


def loss_pairs(
    collector: FactorCollector,
    query: Example,
    trains: Sequence[Example],
    chosen: Sequence[int],
    *,
    normalize: str,
    pad_token_id: int,
    max_tokens: int,
) -> list[Pairs]:
    """The pairs of each training row's answer tokens with the ``chosen`` answer tokens of the query."""
    passes = _TokenPasses(collector, [query, *trains], normalize, pad_token_id, max_tokens)
    answers = [loss_positions(row) for row in trains]
    matrices = [torch.zeros(len(chosen), len(positions)) for positions in answers]
    done = 0
    for block in _blocks(passes.parts(0, chosen)):
        rows = slice(done, done + sum(len(part) for part in block))
        done = rows.stop
        for number, (matrix, positions) in enumerate(zip(matrices, answers, strict=True), 1):
            start = 0
            for part in passes.parts(number, positions):
                matrix[rows, start : start + len(part)] = torch.cat([_inner(asked, part) for asked in block])
                start += len(part)
    whole, norms = passes.norms.whole(), passes.norms.finished_norms().tolist()
    if normalize == "unit":
        matrices = [matrix / (whole[0] * whole[number]) for number, matrix in enumerate(matrices, 1)]
    rows_norms = zip(matrices, answers, norms[1:], strict=True)
    return [(matrix, positions, norms[0], norm) for matrix, positions, norm in rows_norms]


def loss_positions(example: Example) -> list[int]:
    """Places in ``input_ids`` of the tokens that carry loss, ascending."""
    labels = collate([example], 0).labels[0, 1:]
    found: list[int] = ((labels != IGNORE_INDEX).nonzero().flatten() + 1).tolist()
    return found


class _Part:
    """The output gradients of some tokens of one row, tensor by tensor, normalised, over shared activations."""

    def __init__(self, positions: Sequence[int]) -> None:
        self._rows = len(positions)
        self._longest = positions.index(max(positions))  # the activations of the longest copy hold for all
        self.tensors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def __len__(self) -> int:
        return self._rows

    @property
    def values(self) -> int:
        """How much it holds."""
        return sum(a.numel() + g.numel() for a, g in self.tensors.values())

    def keep(self, factors: Factors, multiplier: float) -> None:
        """(positions, inputs) and (tokens, positions, outputs); whichever of positions and inputs is fewer is kept.

        ``sum_p g_p a_p^T = sum_i (sum_p a_pi g_p) e_i^T``: the unit vectors stand in for the activations of a layer
        with few inputs.
        """
        a = factors.activations[self._longest]
        g = factors.output_gradients * (factors.magnitude * multiplier)[:, None, None]
        if a.shape[1] < a.shape[0]:
            # p i, j p o -> j i o
            g = torch.matmul(a.T, g)
            a = torch.eye(a.shape[1], device=a.device)
        self.tensors[factors.name] = (a, g)


class _TokenPasses:
    """Backward passes of single tokens of some rows, many tokens to a pass."""

    def __init__(
        self, collector: FactorCollector, rows: Sequence[Example], normalize: str, pad: int, max_tokens: int
    ) -> None:
        self._collector = collector
        self._rows = rows
        self._pad = pad
        self._max_tokens = max_tokens
        self.norms = self._whole_rows(normalize)

    def _whole_rows(self, normalize: str) -> Normaliser:
        """The tensor norms of whole rows: one pass, before the passes of their tokens."""
        found: dict[str, torch.Tensor] = {}
        for indices in token_budget_batches(self._rows, self._max_tokens):

            def receive(factors: Factors, indices: list[int] = indices) -> None:
                found.setdefault(factors.name, torch.zeros(len(self._rows)))[indices] = factors.norms().cpu()

            self._collector.factors(collate([self._rows[index] for index in indices], self._pad), receive)
        normaliser = Normaliser(normalize)
        for name, norms in found.items():
            normaliser.multipliers(name, norms)
        return normaliser

    def parts(self, row: int, positions: Sequence[int]) -> Iterator[_Part]:
        """The row's tokens at ``positions``, as many at a time as ``max_tokens`` allows."""
        example = self._rows[row]
        share = len(loss_positions(example))  # the row's loss is the mean over its answer tokens
        size = max(1, self._max_tokens // len(example))
        for start in range(0, len(positions), size):
            chosen = positions[start : start + size]
            part = _Part(chosen)

            def receive(factors: Factors, part: _Part = part) -> None:
                part.keep(factors, self.norms.multiplier_of(factors.name, row) / share)

            self._collector.factors(collate([_copy(example, position) for position in chosen], self._pad), receive)
            yield part


def _copy(example: Example, position: int) -> Example:
    ids = example.input_ids[: position + 1]
    return replace(example, input_ids=ids, answer_start=position, loss_mask=None)


def _blocks(parts: Iterator[_Part]) -> Iterator[list[_Part]]:
    """The query's parts in lists that fit into memory; usually there is one list."""
    block: list[_Part] = []
    for part in parts:
        if block and sum(held.values for held in block) + part.values > _MAX_VALUES:
            yield block
            block = []
        block.append(part)
    if block:
        yield block


def _inner(query: _Part, train: _Part) -> torch.Tensor:
    total = torch.zeros(len(query), len(train))
    for name, (a, g) in train.tensors.items():
        asked_a, asked_g = query.tensors[name]
        # q i, p i -> q p; then j q o, q p -> j p o
        carried = torch.matmul((a @ asked_a.T), asked_g)
        total += (carried.flatten(1) @ g.flatten(1).T).cpu()
    return total
