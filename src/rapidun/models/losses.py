"""The one place where logits meet labels: shifted by one, answer tokens only, one value per row.

Every other room (gradients, unlearning, evaluation) calls these functions, so there is one shift to get
right (trap 1) and one mask (trap 2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rapidun.data.batches import IGNORE_INDEX


def answer_token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every answer token.

    Args:
        logits: (batch, length, vocabulary), any float dtype; computed in float32.
        labels: (batch, length) int64, -100 where no loss is wanted; not shifted.

    Returns:
        ``(losses, mask)``, both (batch, length - 1): position ``t`` is the loss of predicting token ``t + 1``;
        losses are float32 and 0 where the boolean mask is False.
    """
    target = labels[:, 1:]
    mask = target != IGNORE_INDEX
    losses = F.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), target, ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses, mask


def sum_answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``S = sum_t l_t`` of each row over its answer tokens, (batch,) float32."""
    return answer_token_losses(logits, labels)[0].sum(dim=1)


def mean_answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``L = mean_t l_t`` of each row over its own answer tokens, (batch,) float32.

    Does not depend on the other rows of the batch (trap 4). A row without answer tokens has loss 0.
    """
    losses, mask = answer_token_losses(logits, labels)
    return losses.sum(dim=1) / mask.sum(dim=1).clamp_min(1)
