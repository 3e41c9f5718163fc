"""Forgetting token by token: what remains of an answer once its beginning is given is forgotten too.

The ascent of `rapidun` fades with the loss of a whole answer. Its first tokens alone can raise that, and the rest is
then left as it was: a model that is made to begin the answer, or has been shown one like it, goes on with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import RETAIN_DIVERGENCE, cross_entropy
from rapidun.unlearning.options import NotNegative, Positive
from rapidun.unlearning.registry import Requires, register_method


@register_method(
    "rapidun_deep", retain=RETAIN_DIVERGENCE, requires=Requires.PREFERRED, preferred="optional",
    source="ours: RapidUn (arXiv 2512.04457), eq. 8, with a bounded ascent for each token",
)  # fmt: skip
def deep_forget(
    rows: Answers, *, ascent: NotNegative = 1.0, descent: NotNegative = 1.0, beta: Positive = 1.0
) -> torch.Tensor:
    """``mean_t [ascent * (2/beta) log(1 + p_t^beta)] + descent * mean_t[f_t] * CE(y_clean|x)``. (batch,).

    ``p_t`` is the probability of the unwanted answer's token t after the true tokens before it. The slope of its loss
    is ``-f_t``, ``f_t = 2 p_t^beta / (1 + p_t^beta)``: that of plain ascent for a token that the model is sure of, 0
    for one that it would not say. No reference is read. The descent fades alike. ascent 1, descent 1, beta 1.
    """
    logs = F.log_softmax(rows.at_predicting("logits"), dim=-1)
    losses = -logs.gather(1, rows.targets[:, None]).squeeze(1)
    loss = ascent * (2.0 / beta) * rows.row_means(F.softplus(-beta * losses))
    if rows.preferred is not None and rows.has_preferred is not None:
        preferred = torch.zeros_like(loss)
        preferred[rows.has_preferred] = cross_entropy(rows.preferred)
        loss = loss + descent * rows.row_means(2.0 * torch.sigmoid(-beta * losses)).detach() * preferred
    return loss
