"""Ascent on the forget rows' loss, alone or with something that holds the retain rows. Unbounded: see the budget."""

from __future__ import annotations

import torch

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import RETAIN_DIVERGENCE, RETAIN_LOSS, cross_entropy
from rapidun.unlearning.registry import register_method


@register_method("ga", retain=None, source="Jang et al. 2023, Knowledge Unlearning, arXiv 2210.01504, eq. 1")
def gradient_ascent(rows: Answers) -> torch.Tensor:
    """``-CE(y|x)`` on forget rows; retain rows are not looked at. (batch,).

    Jang et al. 2023 (arXiv 2210.01504), eq. 1, as a mean over tokens. No options.
    """
    return -cross_entropy(rows)


@register_method(
    "graddiff", retain=RETAIN_LOSS, gamma=1.0,
    source="Liu, Liu and Stone 2022, Continual Learning and Private Unlearning; Maini et al. 2024, TOFU",
)  # fmt: skip
def gradient_difference(rows: Answers) -> torch.Tensor:
    """``gamma * -CE_f + alpha * CE_r``. (batch,).

    Liu, Liu and Stone 2022 (CoLLAs); "gradient difference" of TOFU (arXiv 2401.06121), section 3. gamma 1, alpha 1.
    """
    return -cross_entropy(rows)


@register_method(
    "kl", retain=RETAIN_DIVERGENCE, gamma=1.0,
    source="Maini et al. 2024, TOFU, arXiv 2401.06121, section 3 (KL minimisation)",
)  # fmt: skip
def ascent_held_by_divergence(rows: Answers) -> torch.Tensor:
    """``gamma * -CE_f + alpha * KL(p_0 || p)`` on retain rows, answer positions only. (batch,).

    "KL minimisation" of TOFU (arXiv 2401.06121), section 3. gamma 1, alpha 1.
    """
    return -cross_entropy(rows)
