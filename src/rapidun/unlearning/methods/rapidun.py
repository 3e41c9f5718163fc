"""RapidUn's objective: away from the unwanted answer, towards the preferred one, until the row is forgotten.

Two methods differ in what holds the retain rows: with `rapidun` their loss, as in the paper; with `rapidun_kl`, the
default, the distribution that the model had on them. On a tuning draw of a real chat model the second costs far less
perplexity (benchmarks/real_model/directions.py): the loss on a hundred rows falls by learning them by heart.
"""

from __future__ import annotations

import torch

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import (
    RETAIN_DIVERGENCE,
    RETAIN_LOSS,
    bounded_ascent,
    cross_entropy,
    rise,
    unlikelihood,
)
from rapidun.unlearning.options import NotNegative, Positive
from rapidun.unlearning.registry import Requires, register_method


@register_method(
    "rapidun_kl", retain=RETAIN_DIVERGENCE, requires=Requires.REFERENCE_LOSS | Requires.PREFERRED, preferred="optional",
    source="as rapidun; on retain rows KL(p_0 || p): Maini et al. 2024, TOFU, arXiv 2401.06121, section 3",
)  # fmt: skip
@register_method(
    "rapidun", retain=RETAIN_LOSS, requires=Requires.REFERENCE_LOSS | Requires.PREFERRED, preferred="optional",
    source="Zhao et al. 2025, RapidUn, arXiv 2512.04457, eq. 8; bounded ascent: Zhang et al. 2024, arXiv 2404.05868",
)  # fmt: skip
def rapidun_forget(
    rows: Answers,
    *,
    ascent: NotNegative = 1.0,
    descent: NotNegative = 1.0,
    bounded: bool = True,
    beta: Positive = 0.1,
) -> torch.Tensor:
    """``descent * CE(y_clean|x) - ascent * CE(y_bad|x)``; without a clean answer the first term is absent. (batch,).

    Zhao et al. 2025 (arXiv 2512.04457), eq. 8. ``bounded=True`` (ours, the default) replaces ``-CE`` by NPO's term
    divided by the answer's length, which has the same gradient at the start and fades with the row's rise S - S_0 as
    ``2 sigmoid(-beta (S - S_0))``, and lets the descent fade alike: what a forgotten row still learns from its clean
    answer is that answer by heart, and the rest of the model pays for it. ``False`` is the paper's, whose descent is
    0.5. A row without a clean answer has nothing but its ascent, which does not move an answer that the model is sure
    of; `unlikelihood` is added to it, so that both together begin as the mean log-odds ``log p_t / (1 - p_t)``.
    ascent 1, descent 1, beta 0.1 (of the bounded form).
    """
    away = bounded_ascent(rows, beta) / rows.token_counts if bounded else -cross_entropy(rows)
    answered = torch.zeros_like(away, dtype=torch.bool) if rows.has_preferred is None else rows.has_preferred
    if bounded and not answered.all():
        away = away + torch.where(answered, 0.0, unlikelihood(rows))
    loss = ascent * away
    if rows.preferred is not None and rows.has_preferred is not None:
        wanted = torch.zeros_like(loss)
        wanted[rows.has_preferred] = cross_entropy(rows.preferred)
        fade = 2.0 * torch.sigmoid(-beta * rise(rows)).detach() if bounded else 1.0
        loss = loss + descent * fade * wanted
    return loss
