"""The diagonal of the empirical Fisher information: the mean of *squared per-example* gradients.

    F_j = 1/n sum_i w_i (d L(s_i) / d theta_j)^2

Squaring the gradient of a batch's mean loss instead is a different number, too small by up to the batch size, and
zero where rows disagree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from rapidun.data.batches import Example, collate, token_budget_batches
from rapidun.gradients import GradientCollector
from rapidun.gradients.factors import Gradients

Fisher = dict[str, torch.Tensor]
BATCH_TOKENS = 4096


def fisher_diagonal(
    model: nn.Module,
    examples: Sequence[Example],
    weights: np.ndarray,
    pad_token_id: int,
    *,
    targets: str | Sequence[str] = "linear",
) -> Fisher:
    """F of every tracked weight, (size,) float32 on its device, in the layout of the weight; keyed by its name."""
    collector = GradientCollector(model, targets, normalize="none")
    total: Fisher = {}
    for indices in token_budget_batches(examples, BATCH_TOKENS):
        shares = torch.as_tensor(weights[indices], dtype=torch.float32) / len(examples)
        batch: Fisher = {}

        def receive(
            name: str, rows: slice, gradients: Gradients, into: Fisher = batch, of: torch.Tensor = shares
        ) -> None:
            values = gradients.formed()
            # r, r j -> j
            found = torch.einsum("r,rj->j", of[rows].to(values.device), values.square_())
            into[name] = into[name] + found if name in into else found

        scale = collector.visit(collate([examples[index] for index in indices], pad_token_id), receive)
        for name, values in batch.items():
            found = values / scale**2
            total[name] = total[name] + found if name in total else found
    return total
