"""Preference objectives: the unwanted answer as the loser of a comparison that ends when it is lost."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import RETAIN_LOSS, bounded_ascent, cross_entropy, rise
from rapidun.unlearning.options import Positive
from rapidun.unlearning.registry import Requires, register_method


@register_method(
    "npo", retain=RETAIN_LOSS, requires=Requires.REFERENCE_LOSS, gamma=1.0,
    source="Zhang et al. 2024, Negative Preference Optimization, arXiv 2404.05868, eq. 3",
)  # fmt: skip
def negative_preference(rows: Answers, *, beta: Positive = 0.1) -> torch.Tensor:
    """``-(2/beta) log sigmoid(beta * (S - S_0))``, S the sum of answer-token losses, 0 = adapter off. (batch,).

    Zhang et al. 2024 (arXiv 2404.05868), eq. 3. beta 0.1, gamma 1, alpha 1.
    """
    return bounded_ascent(rows, beta)


@register_method(
    "simnpo", retain=RETAIN_LOSS, gamma=0.125,
    source="Fan et al. 2024, Simplicity Prevails (SimNPO), arXiv 2410.07163",
)  # fmt: skip
def simple_negative_preference(rows: Answers, *, beta: Positive = 4.5, delta: float = 0.0) -> torch.Tensor:
    """``-(2/beta) log sigmoid(beta * (S/T - delta))``: NPO by length, without a reference model. (batch,).

    Fan et al. 2024 (arXiv 2410.07163). beta 4.5, delta 0, gamma 0.125, alpha 1.
    """
    return -(2.0 / beta) * F.logsigmoid(beta * (cross_entropy(rows) - delta))


_DPO_REQUIRES = Requires.REFERENCE_LOSS | Requires.PREFERRED | Requires.PREFERRED_REFERENCE


@register_method(
    "dpo", retain=RETAIN_LOSS, requires=_DPO_REQUIRES, preferred="required", gamma=1.0,
    source="Rafailov et al. 2023, Direct Preference Optimization, arXiv 2305.18290, eq. 7",
)  # fmt: skip
@register_method(
    "idk", retain=RETAIN_LOSS, requires=_DPO_REQUIRES, preferred="refusal", gamma=1.0,
    source="Rafailov et al. 2023, arXiv 2305.18290, eq. 7, a refusal preferred as in TOFU, arXiv 2401.06121, section 3",
)  # fmt: skip
def direct_preference(rows: Answers, *, beta: Positive = 0.1) -> torch.Tensor:
    """``-(2/beta) log sigmoid(beta * ((S0_w - S_w) - (S0_l - S_l)))``, w = wanted, l = unwanted answer. (batch,).

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. `dpo` prefers the row's own preferred answer (``response_clean``);
    for a row without one the w part is 0, which is `npo`. `idk` prefers a refusal ("I don't know."), as in TOFU.
    beta 0.1, gamma 1, alpha 1.
    """
    margin = rise(rows)
    if rows.preferred is not None and rows.has_preferred is not None:
        wanted = torch.zeros_like(margin)
        wanted[rows.has_preferred] = rise(rows.preferred)
        margin = margin - wanted
    return -(2.0 / beta) * F.logsigmoid(beta * margin)
