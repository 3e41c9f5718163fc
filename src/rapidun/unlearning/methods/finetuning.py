"""Plain fine-tuning, the control that every unlearning method must beat: no ascent, no reference, no weights needed."""

from __future__ import annotations

import torch

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import RETAIN_LOSS, cross_entropy
from rapidun.unlearning.registry import Requires, register_method


@register_method(
    "finetune", retain=RETAIN_LOSS, requires=Requires.PREFERRED, preferred="optional", gamma=1.0,
    source="Fine-tuning on clean data, the first defence in Li et al. 2024, BackdoorLLM, arXiv 2408.12798",
)  # fmt: skip
def fine_tuning(rows: Answers) -> torch.Tensor:
    """``CE(y_clean|x)`` where a forget row has a preferred answer, 0 where it has none. (batch,).

    The unwanted answers are not learnt from. gamma 1, alpha 1.
    """
    loss = 0.0 * cross_entropy(rows)
    if rows.preferred is not None and rows.has_preferred is not None:
        wanted = torch.zeros_like(loss)
        wanted[rows.has_preferred] = cross_entropy(rows.preferred)
        loss = loss + wanted
    return loss
