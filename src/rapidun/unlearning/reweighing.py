"""Sample weights that follow the model: recomputed every n optimiser steps on the current adapter, smoothed.

    w <- smoothing * w + (1 - smoothing) * w_new

The first weights are those of the run's start; a mean of mean-one weights has mean one. RapidUn names this its first
open question (arXiv 2512.04457). Which weights are computed is the caller's affair: a scheme of `rapidun.weighting`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from rapidun.unlearning.sampling import Group, TrainingRows

NewWeights = Callable[[PeftModel], tuple[np.ndarray, np.ndarray]]


class Reweighing:
    """The present weights of all rows.

    Args:
        compute: Weights of (forget, retain) rows on the model as it is; each of mean 1.
        every: Optimiser steps between two computations.
        smoothing: Share of the old weights that stays, in [0, 1).
    """

    def __init__(self, compute: NewWeights, *, every: int, smoothing: float) -> None:
        self.compute, self.every, self.smoothing = compute, every, smoothing
        self.weights: dict[str, np.ndarray] = {}

    def begin(self, rows: TrainingRows) -> None:
        """Start from the weights that the rows came with."""
        self.weights = {"forget": rows.forget_weights.copy(), "retain": rows.retain_weights.copy()}

    def of(self, name: str, group: Group) -> torch.Tensor:
        """(rows,) float32: the present weights of the rows of a batch, on its device."""
        chosen = self.weights[name][group["index"].cpu().numpy()]
        return torch.tensor(chosen, dtype=torch.float32, device=group["weight"].device)

    def advance(self, model: PeftModel, step: int) -> None:
        """After optimiser step ``step``: compute and smooth where it is time."""
        if step % self.every:
            return
        new = dict(zip(("forget", "retain"), self.compute(model), strict=True))
        for name, old in self.weights.items():
            self.weights[name] = self.smoothing * old + (1.0 - self.smoothing) * new[name]

    def state_dict(self) -> dict[str, Any]:
        """The present weights, for JSON."""
        return {name: weights.tolist() for name, weights in self.weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.weights = {name: np.asarray(values, dtype=np.float64) for name, values in state.items()}
