"""Primal-dual unlearning: flatten the forget rows' logits subject to a bound on the retain loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.methods.terms import cross_entropy
from rapidun.unlearning.options import NotNegative, Positive
from rapidun.unlearning.registry import Term, register_method
from rapidun.unlearning.state import MethodState, Start


class DualVariable(MethodState):
    """``lam <- max(0, lam + dual_step * (CE_r - eps))`` after each optimiser step, ``eps = slack * CE_r`` at the start.

    CE_r is the weighted mean over the retain rows of the step; a step without retain rows leaves ``lam``.
    """

    def __init__(self, *, slack: Positive = 1.05, dual_step: Positive = 1.0, dual_start: NotNegative = 1.0) -> None:
        self.slack, self.dual_step, self.dual = slack, dual_step, dual_start
        self.epsilon = 0.0
        self._seen: list[float] = []

    def begin(self, start: Start) -> None:
        """The bound, from the retain rows' loss before the first step."""
        losses = start.losses(start.rows.retain) * start.rows.retain_weights
        self.epsilon = self.slack * float(np.mean(losses))

    def values(self) -> dict[str, float]:
        """``dual`` and ``epsilon``."""
        return {"dual": self.dual, "epsilon": self.epsilon}

    def observe(self, group: str, rows: Answers, weights: torch.Tensor) -> None:
        """Note the weighted losses of retain rows."""
        if group == "retain":
            self._seen += (cross_entropy(rows).detach() * weights).tolist()

    def advance(self) -> None:
        """One dual step an optimiser step, not two."""
        if self._seen:
            violation = sum(self._seen) / len(self._seen) - self.epsilon
            self.dual = max(0.0, self.dual + self.dual_step * violation)
            self._seen = []

    def state_dict(self) -> dict[str, Any]:
        """``dual`` and ``epsilon``."""
        return self.values()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """``dual`` and ``epsilon``."""
        self.dual, self.epsilon = float(state["dual"]), float(state["epsilon"])


def constraint(rows: Answers, *, dual: float, epsilon: float) -> torch.Tensor:
    """``lam * (CE_r - eps)``. (batch,)."""
    return dual * (cross_entropy(rows) - epsilon)


@register_method(
    "pdu", retain=Term(constraint), state=DualVariable,
    source="Entesari et al. 2025, Constrained Entropic Unlearning, arXiv 2506.05314",
)  # fmt: skip
def flattened_logits(rows: Answers) -> torch.Tensor:
    """``mean_t (max_v z - mean_v z)^2`` at positions that predict an answer token. (batch,).

    Entesari et al. 2025 (arXiv 2506.05314): ``min L_f`` subject to ``CE_r <= eps``, by ``L_f + lam * (CE_r - eps)``.
    slack 1.05 (eps over the starting retain loss), dual_step 1, dual_start 1 (ours).
    """
    logits = rows.at_predicting("logits")
    return rows.row_means((logits.amax(dim=-1) - logits.mean(dim=-1)).square())
