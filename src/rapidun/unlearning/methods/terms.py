"""Terms that several methods share. Each is computed from log-probabilities, so a constant added to all logits of a
position changes nothing, and only at positions that predict an answer token."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from rapidun.models.losses import mean_answer_loss, sum_answer_loss
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.registry import Requires, Term


def cross_entropy(rows: Answers) -> torch.Tensor:
    """``CE = mean_t l_t`` over each row's answer tokens: the retain term of most methods. (batch,)."""
    return mean_answer_loss(rows.logits, rows.labels)


def reference_divergence(rows: Answers) -> torch.Tensor:
    """``KL(p_0 || p) = mean_t sum_v p_0 (log p_0 - log p)`` over answer positions, 0 = adapter off. (batch,)."""
    now = F.log_softmax(rows.at_predicting("logits"), dim=-1)
    before = F.log_softmax(rows.at_predicting("reference_logits"), dim=-1)
    return rows.row_means(F.kl_div(now, before, reduction="none", log_target=True).sum(dim=-1))


def rise(rows: Answers) -> torch.Tensor:
    """``S - S_0``: how much the sum of the answer's token losses has risen over the model without adapter. (batch,)."""
    before = rows.reference_sums
    if before is None:
        before = sum_answer_loss(rows.required("reference_logits"), rows.labels).detach()
    return sum_answer_loss(rows.logits, rows.labels) - before


def bounded_ascent(rows: Answers, beta: float) -> torch.Tensor:
    """``-(2/beta) log sigmoid(beta * (S - S_0))``: NPO's term; fades as the row is forgotten. (batch,).

    Raises:
        ValueError: If the reference logits are absent.
    """
    return -(2.0 / beta) * F.logsigmoid(beta * rise(rows))


def unlikelihood(rows: Answers) -> torch.Tensor:
    """``mean_t -log(1 - p_t)``: steep where the model is sure of the answer, flat once it is forgotten. (batch,).

    Welleck et al. 2020 (arXiv 1908.04319), eq. 4. Its slope at the token's logit is ``p_t``; that of a loss that is
    climbed, whatever bounds it, has the factor ``1 - p_t``, which is nothing for an answer known by heart.
    """
    logits, wanted = rows.at_predicting("logits"), rows.targets[:, None]
    others = logits.scatter(1, wanted, -torch.inf).logsumexp(dim=1)
    return rows.row_means(logits.logsumexp(dim=1) - others)


def soft_cross_entropy(rows: Answers, teacher: torch.Tensor) -> torch.Tensor:
    """``mean_t -sum_v q_t(v) log p_t(v)``; ``teacher`` q is (answer tokens, vocabulary), a constant. (batch,)."""
    logs = F.log_softmax(rows.at_predicting("logits"), dim=-1)
    # 0 * -inf is no number; a token that the teacher rules out has no part in the sum
    return rows.row_means(-(teacher.detach() * logs).masked_fill(teacher == 0, 0.0).sum(dim=-1))


RETAIN_LOSS = Term(cross_entropy)
RETAIN_DIVERGENCE = Term(reference_divergence, Requires.REFERENCE)
