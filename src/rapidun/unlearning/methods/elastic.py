"""Ascent with an elastic anchor: weights that the retain rows depend on cost more to move."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from rapidun.unlearning.answers import Answers
from rapidun.unlearning.fisher import Fisher, fisher_diagonal
from rapidun.unlearning.methods.terms import cross_entropy
from rapidun.unlearning.options import NotNegative
from rapidun.unlearning.registry import register_method
from rapidun.unlearning.sampling import Group
from rapidun.unlearning.state import MethodState, Start


class ElasticAnchor(MethodState):
    """``strength * sum_j F_j (theta_j - theta0_j)^2`` over the adapted weights.

    ``theta - theta0`` is the adapter's own update ``alpha/rank * B A`` of each layer, so the penalty is that of the
    full weights and not of the factors (whose Fisher at B = 0 would be 0 for every A). F is the mean of squared
    per-example gradients of the retain rows before the first step: 4 bytes for each adapted weight.
    """

    needs_retain = True

    def __init__(self, *, strength: NotNegative = 1.0) -> None:
        self.strength = strength
        self.fisher: Fisher = {}

    def begin(self, start: Start) -> None:
        """Measure F; deterministic, so a resumed run has the same."""
        targets = [f"{name}.base_layer" for name in adapted_layers(start.model)]
        self.fisher = fisher_diagonal(
            start.model, start.rows.retain, start.rows.retain_weights, start.pad_token_id, targets=targets
        )

    def penalty(self, model: PeftModel, inputs: Mapping[str, Group]) -> torch.Tensor | None:
        """The scalar; differentiable in the adapter's factors."""
        if not self.fisher:
            return None
        layers = adapted_layers(model)
        parts = []
        for name, fisher in self.fisher.items():
            layer = layers[name.removesuffix(".base_layer.weight")]
            update = layer.get_delta_weight(layer.active_adapters[0]).float()
            parts.append((fisher.view_as(update) * update.square()).sum())
        return self.strength * torch.stack(parts).sum()


def adapted_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """The layers that carry LoRA factors, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@register_method(
    "fisher_ewc", retain=None, state=ElasticAnchor,
    source="Kirkpatrick et al. 2017, Elastic Weight Consolidation, arXiv 1612.00796, eq. 3, around ascent",
)  # fmt: skip
def anchored_ascent(rows: Answers) -> torch.Tensor:
    """``-CE_f``, with ``strength * sum F_r (theta - theta0)^2`` added to each step's loss. (batch,).

    Kirkpatrick et al. 2017 (arXiv 1612.00796), eq. 3, F of the retain rows. strength 1: the penalty is then about twice
    the rise of the retain loss that F predicts. Needs retain rows for F only; they are not trained on.
    """
    return -cross_entropy(rows)
