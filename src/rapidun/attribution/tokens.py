"""Which training tokens are behind which tokens of an answer: the influence of a row, cut into token pairs.

Two exact decompositions (RapidIn, arXiv 2405.11724, eq. 6-8, and its layer-by-layer relative); the pairs of either
sum to the inner product of the two rows' whole gradients under the same normalisation:

* ``by="loss"``: a token is a predicted answer token, whose loss is differentiated; one backward pass each.
* ``by="position"``: a token is the position whose activation carries the gradient; prompt tokens have a share too. A
  linear layer's gradient is ``sum_p g_p a_p^T``, so its inner product between two rows is the sum over pairs ``(p, q)``
  of ``(a_p . a_q)(g_p . g_q)``: two matrix products of a layer's factors, no backward pass of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rapidun.attribution.token_losses import Pairs, loss_pairs, loss_positions
from rapidun.data.batches import Batch, Example, collate, token_budget_batches
from rapidun.errors import ConfigError, InputError, ModelError
from rapidun.gradients.token_factors import FactorCollector, Factors, Normaliser
from rapidun.settings.kinds import Decomposition, Normalization


@dataclass(frozen=True)
class TokenInfluence:
    """The influence of one training row on one query, token by token.

    Args:
        matrix: (query tokens, train tokens) float64; positive where training on the one helps the other.
        query_positions: Places of the query tokens in the query's ``input_ids``.
        train_positions: Places of the train tokens in the training row's.
        query_norm: Norm of the query's whole gradient after normalisation.
        train_norm: Norm of the training row's.
    """

    matrix: npt.NDArray[np.float64]
    query_positions: list[int]
    train_positions: list[int]
    query_norm: float
    train_norm: float

    @cached_property
    def by_query_token(self) -> npt.NDArray[np.float64]:
        """(query tokens,): what the training row does for each token of the query."""
        sums: npt.NDArray[np.float64] = self.matrix.sum(axis=1)
        return sums

    @cached_property
    def by_train_token(self) -> npt.NDArray[np.float64]:
        """(train tokens,): what each token of the training row does for the query."""
        sums: npt.NDArray[np.float64] = self.matrix.sum(axis=0)
        return sums

    @property
    def total(self) -> float:
        """The influence of the row: the inner product of the two gradients."""
        return float(self.matrix.sum())

    @property
    def cosine(self) -> float:
        """``total`` between -1 and 1: the cosine of the two gradients, 0 where one of them is 0."""
        norms = self.query_norm * self.train_norm
        return self.total / norms if norms > 0 else 0.0


def trace_tokens(model: nn.Module, query: Example, train: Example, **options: object) -> TokenInfluence:
    """The token pairs of one training row; the options are those of `trace_tokens_many`."""
    return trace_tokens_many(model, query, [train], **options)[0]  # type: ignore[arg-type]


def trace_tokens_many(
    model: nn.Module,
    query: Example,
    trains: Sequence[Example],
    *,
    by: Decomposition = "position",
    targets: str | Sequence[str] = "lora",
    normalize: Normalization = "layer",
    token_normalize: bool = False,
    query_tokens: Sequence[int] | None = None,
    pad_token_id: int = 0,
    max_tokens: int = 4096,
) -> list[TokenInfluence]:
    """The token pairs of each training row with the query; the query's own passes are made once.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        query: The tokenised query; tokens without loss are left out of the loss, see `word_mask`.
        trains: Tokenised training rows.
        by: ``"loss"`` or ``"position"``.
        targets: Tracked tensors, as for `rapidun.gradients.GradientCollector`; linear layers only.
        normalize: As for the `GradientCollector`; ``"layer"`` divides each tensor's gradient by its norm.
        token_normalize: Give every answer token's output error norm 1.
        query_tokens: Places in the query's ``input_ids`` to trace, default all (``"loss"``: all that carry loss). The
            matrix has these rows alone, and sums to their part of the influence.
        pad_token_id: Any token id; padding never carries loss.
        max_tokens: Padded size of a pass, in tokens; with ``"loss"`` each answer token's copy of its row counts.

    Raises:
        ConfigError: If ``by``, ``normalize`` or ``targets`` is unknown.
        InputError: If a query token does not exist or, with ``"loss"``, carries no loss.
        ModelError: If ``targets`` match nothing, or an influence is not finite.
    """
    if by not in _PAIRS:
        raise ConfigError(f"by={by!r}: use one of {', '.join(get_args(Decomposition))}.")
    if normalize not in get_args(Normalization):
        raise ConfigError(f"normalize={normalize!r}: use one of {', '.join(get_args(Normalization))}.")
    chosen = _chosen(query, query_tokens, by)
    collector = FactorCollector(model, targets, token_normalize)
    if not trains:
        return []
    options = {"normalize": normalize, "pad_token_id": pad_token_id, "max_tokens": max_tokens}
    found = _PAIRS[by](collector, query, trains, chosen, **options)
    return [_finished(chosen, *pairs, train) for pairs, train in zip(found, trains, strict=True)]


def _chosen(query: Example, query_tokens: Sequence[int] | None, by: str) -> list[int]:
    possible = loss_positions(query) if by == "loss" else list(range(len(query)))
    if query_tokens is None:
        return possible
    if not query_tokens:
        raise InputError("query_tokens is empty: name at least one token, or leave it out to trace all of them.")
    for position in query_tokens:
        if position not in possible:
            what = "carries no loss" if 0 <= position < len(query) else "does not exist"
            raise InputError(
                f"query_tokens: token {position} of query {query.id!r} {what}; possible are {_shown(possible)}."
            )
    return list(query_tokens)


def _shown(positions: Sequence[int]) -> str:
    listed = ", ".join(map(str, positions[:20]))
    return listed + (f", ... {positions[-1]}" if len(positions) > 20 else "")


def _finished(
    chosen: list[int], pairs: torch.Tensor, positions: list[int], query_norm: float, train_norm: float, train: Example
) -> TokenInfluence:
    matrix = pairs.double().numpy()
    if not (np.isfinite(matrix).all() and math.isfinite(query_norm * train_norm)):
        raise ModelError(
            f"The token influence of row {train.id!r} is not finite. Load the model as bfloat16 or float32."
        )
    return TokenInfluence(matrix, list(chosen), positions, query_norm, train_norm)


def _position_pairs(
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
    asked: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    query_norms, found = Normaliser(normalize), dict[int, Pairs]()

    def keep(factors: Factors) -> None:
        multiplier = query_norms.multipliers(factors.name, factors.norms()) * factors.magnitude
        kept = [call * len(query) + position for call in range(factors.calls) for position in chosen]
        asked[factors.name] = factors.activations[0, kept], factors.output_gradients[0, kept] * multiplier

    collector.factors(collate([query], pad_token_id), keep)
    query_norm = float(query_norms.finished_norms()[0])
    for indices in token_budget_batches(trains, max_tokens):
        rows, norms = [trains[index] for index in indices], Normaliser(normalize)
        matrices = _batch_pairs(collector, collate(rows, pad_token_id), asked, len(chosen), norms)
        if normalize == "unit":
            matrices = matrices / (query_norms.whole() * norms.whole())[:, None, None]
        for row, matrix, norm, index in zip(rows, matrices, norms.finished_norms().tolist(), indices, strict=True):
            found[index] = matrix[:, : len(row)], list(range(len(row))), query_norm, norm
    return [found[index] for index in range(len(trains))]


def _batch_pairs(
    collector: FactorCollector,
    batch: Batch,
    asked: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    count: int,
    norms: Normaliser,
) -> torch.Tensor:
    """(rows, query positions, train positions) on the CPU; notes the rows' ``norms``.

    Args:
        collector: Of whose tensors.
        batch: Training rows.
        asked: The query's factors at ``count`` positions of each call, divided by what the normalisation asks.
        count: How many positions of the query.
        norms: Of no rows yet.
    """
    rows, length = batch.input_ids.shape
    sums: list[torch.Tensor] = []

    def add(factors: Factors) -> None:
        a, g = asked[factors.name]
        # (rows x positions, query positions): one matrix product for all rows of the batch
        pairs = factors.activations.flatten(0, 1) @ a.T
        pairs *= factors.output_gradients.flatten(0, 1) @ g.T
        folded = pairs.view(rows, factors.calls, length, len(a) // count, count).sum(dim=(1, 3))
        folded *= (norms.multipliers(factors.name, factors.norms()) * factors.magnitude)[:, None, None]
        if sums:
            sums[0] += folded.to(sums[0].device)
        else:
            sums.append(folded)

    collector.factors(batch, add)
    return sums[0].cpu().transpose(1, 2)


_PAIRS: dict[str, Callable[..., list[Pairs]]] = {"loss": loss_pairs, "position": _position_pairs}
