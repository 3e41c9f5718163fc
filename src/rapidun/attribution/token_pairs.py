"""What both decompositions give: one training row's matrix of token pairs, with the norms of the two gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pairs:
    """(query tokens, train tokens) float32 on the CPU; positions in ``input_ids``; norms of the whole gradients."""

    matrix: torch.Tensor
    query_positions: list[int]
    train_positions: list[int]
    query_norm: float
    train_norm: float
