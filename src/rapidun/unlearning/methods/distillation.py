"""Self-distillation towards the model's own distribution with the unwanted token taken down or out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import soft_cross_entropy
from rapidun.unlearning.options import Positive
from rapidun.unlearning.registry import Requires, register_method


@register_method(
    "undial", retain=None, requires=Requires.REFERENCE,
    source="Dong et al. 2024, UNDIAL: Self-Distillation with Adjusted Logits, arXiv 2402.10052",
)  # fmt: skip
def adjusted_logits(rows: Answers, *, beta: Positive = 10.0) -> torch.Tensor:
    """Cross-entropy to ``softmax(z_0 - beta * onehot(y))``, z_0 the logits with the adapter off. (batch,).

    Dong et al. 2024 (arXiv 2402.10052). beta 10; no retain term: the fixed target is what holds the model.
    """
    teacher = rows.at_predicting("reference_logits")
    teacher = teacher - beta * F.one_hot(rows.targets, teacher.shape[-1])
    return soft_cross_entropy(rows, teacher.softmax(dim=-1))


@register_method("ceu", retain=None, source="Yang 2025, CE-U: Cross Entropy Unlearning, arXiv 2503.01224")
def token_removed(rows: Answers) -> torch.Tensor:
    """Cross-entropy to the model's present distribution with ``y_t`` removed, a constant of the step. (batch,).

    ``q(v) = p(v) / (1 - p(y_t))`` for ``v != y_t``, else 0. Yang 2025 (arXiv 2503.01224). No options, no retain term.
    """
    logits = rows.at_predicting("logits").detach()
    removed = logits.scatter(1, rows.targets[:, None], -math.inf)
    return soft_cross_entropy(rows, removed.softmax(dim=-1))
