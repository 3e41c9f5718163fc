"""Ascent with weights from the model's own confidence: per token (`wga`, `satimp`) or per row (`loreun`).

The weights are constants of the step: no gradient passes through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from rapidun.models.losses import answer_token_losses, mean_answer_loss
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import RETAIN_LOSS, cross_entropy
from rapidun.unlearning.options import NotNegative, Positive
from rapidun.unlearning.registry import Requires, register_method
from rapidun.unlearning.state import MethodState, Start

SMOOTHING = 0.9  # of the running normaliser of dynamic LoReUn weights


def _token_losses(rows: Answers) -> torch.Tensor:
    """(answer tokens,) losses, in the order of ``rows.targets``."""
    return answer_token_losses(rows.logits, rows.labels)[0][rows.predicting]


@register_method(
    "wga", retain=RETAIN_LOSS, gamma=1.0,
    source="Wang et al. 2025, Rethinking LLM Unlearning Objectives, arXiv 2502.19301 (weighted gradient ascent)",
)  # fmt: skip
def weighted_ascent(rows: Answers, *, beta: NotNegative = 1.0) -> torch.Tensor:
    """``-mean_t p(y_t)^beta l_t``: tokens the model no longer believes are left alone. (batch,).

    Wang et al. 2025 (arXiv 2502.19301). beta 1, gamma 1, alpha 1; beta 0 is `graddiff`.
    """
    losses = _token_losses(rows)
    return -rows.row_means((-beta * losses).exp().detach() * losses)


@register_method(
    "satimp", retain=RETAIN_LOSS, gamma=0.1,
    source="Yang et al. 2025, Exploring Criteria of Loss Reweighting, arXiv 2505.11953 (SatImp)",
)  # fmt: skip
def saturation_importance(rows: Answers, *, beta1: NotNegative = 5.0, beta2: NotNegative = 1.0) -> torch.Tensor:
    """``-mean_t p^beta1 (1 - p)^beta2 l_t``, p = p(y_t): saturation times importance. (batch,).

    Yang et al. 2025 (arXiv 2505.11953). beta1 5, beta2 1, gamma 0.1, alpha 1.
    """
    losses = _token_losses(rows)
    known = (-losses).exp().detach()
    return -rows.row_means(known**beta1 * (1.0 - known) ** beta2 * losses)


Direction = Literal["low", "high"]
_SIGN = {"low": -1.0, "high": 1.0}


class LossNormaliser(MethodState):
    """``Z = mean_i exp(-+CE_i / tau)`` over the forget rows, so that LoReUn's weights have mean 1.

    Measured before the first step; dynamic weights follow the model, so then Z does too, as a running mean.
    """

    def __init__(self, *, tau: Positive = 0.8, direction: Direction = "low", dynamic: bool = True) -> None:
        self.tau, self.sign, self.dynamic = tau, _SIGN[direction], dynamic
        self.normaliser = 1.0
        self._seen: list[float] = []

    def begin(self, start: Start) -> None:
        """The mean over all forget rows."""
        self.normaliser = float(np.exp(self.sign * start.losses(start.rows.forget) / self.tau).mean())

    def values(self) -> dict[str, float]:
        """``normaliser``."""
        return {"normaliser": self.normaliser}

    def observe(self, group: str, rows: Answers, weights: torch.Tensor) -> None:
        """Note the present ``exp(-+CE / tau)`` of forget rows."""
        if self.dynamic and group == "forget":
            self._seen += (self.sign * cross_entropy(rows).detach() / self.tau).exp().tolist()

    def advance(self) -> None:
        """Move the running mean towards the rows of this step."""
        if self._seen:
            now = sum(self._seen) / len(self._seen)
            self.normaliser = SMOOTHING * self.normaliser + (1.0 - SMOOTHING) * now
            self._seen = []

    def state_dict(self) -> dict[str, Any]:
        """``normaliser``."""
        return {"normaliser": self.normaliser}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """``normaliser``."""
        self.normaliser = float(state["normaliser"])


@register_method(
    "loreun", retain=RETAIN_LOSS, requires=Requires.REFERENCE, state=LossNormaliser, gamma=1.0,
    source="Li et al. 2025, LoReUn, arXiv 2507.22499",
)  # fmt: skip
def loss_reweighted_ascent(
    rows: Answers, *, normaliser: float, tau: Positive = 0.8, direction: Direction = "low", dynamic: bool = True
) -> torch.Tensor:
    """``w_i * -CE_i`` with ``w_i = exp(-CE_i / tau) / Z``: rows that are still easy get more. (batch,).

    LoReUn (arXiv 2507.22499): a *smaller* loss, more weight. ``direction="high"`` is ``exp(+CE_i / tau)``, the sign of
    RapidUn's released baseline. ``dynamic=True`` takes the present loss, ``False`` that of the model
    before unlearning (adapter off). tau 0.8, direction low, dynamic, gamma 1, alpha 1.
    """
    logits = rows.logits if dynamic else rows.required("reference_logits")
    losses = mean_answer_loss(logits, rows.labels).detach()
    return -(_SIGN[direction] * losses / tau).exp() / normaliser * cross_entropy(rows)
