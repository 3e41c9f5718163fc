"""LoReUn's weights (Li et al. 2025, arXiv 2507.22499): from each forget row's own loss, no influence.

``w_i = exp(-CE_i / tau) / mean_j exp(-CE_j / tau)``: the smaller the loss, the more weight.
``loss_direction="high"`` is ``exp(+CE_i / tau)``, the sign of RapidUn's released baseline (trap 23). Retain rows weigh
1. These are the *static* weights, decided before unlearning, for any method; the method `loreun` also follows the loss
as it changes.
"""

from __future__ import annotations

import numpy as np

from rapidun.weighting.evidence import Evidence, Needs
from rapidun.weighting.schemes import WeightOptions, Weights, register_scheme


@register_scheme("loss", needs=Needs.LOSSES)
def loss(evidence: Evidence, generator: np.random.Generator, options: WeightOptions) -> Weights:
    """Mean-one weights from losses; scores are ``-CE`` ("low") or ``+CE`` ("high")."""
    losses = evidence.forget_losses()
    scores = losses if options.loss_direction == "high" else -losses
    raw = np.exp((scores - scores.max()) / options.loss_tau)
    retain = np.ones(evidence.retain)
    return Weights(raw / raw.mean(), retain, scores, np.zeros(evidence.retain))
