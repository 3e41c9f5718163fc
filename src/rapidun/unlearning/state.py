"""What a method remembers between steps: a dual variable, a normaliser, a Fisher matrix.

The trainer asks a state for `values` before each loss, shows it the rows (`observe`), and lets it `advance` once
after each optimiser step. Its `state_dict` is written with every checkpoint, so a resumed run is an
unbroken one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from peft import PeftModel

from rapidun.data.batches import Example
from rapidun.models.row_losses import row_losses
from rapidun.unlearning.answers import Answers
from rapidun.unlearning.sampling import Group, TrainingRows


@dataclass(frozen=True)
class Start:
    """The model before the first step (its adapter adds nothing yet) and the rows of the run."""

    model: PeftModel
    rows: TrainingRows
    pad_token_id: int
    device: torch.device

    def losses(self, examples: Sequence[Example]) -> np.ndarray:
        """(rows,) float64: each row's own mean answer loss, in evaluation mode."""
        return row_losses(self.model, examples, self.pad_token_id, self.device).means


class MethodState:
    """Remembers nothing: the state of most methods, and the base of the others.

    Keyword parameters of ``__init__`` that have a default are options of the method. ``needs_retain`` says that
    `begin` measures retain rows, whether or not they are trained on.
    """

    needs_retain: ClassVar[bool] = False

    def begin(self, start: Start) -> None:
        """Measure what is needed before the first step. Called again when a run is resumed, then `load_state_dict`."""

    def values(self) -> dict[str, float]:
        """Keyword arguments of the terms at this step."""
        return {}

    def observe(self, group: str, rows: Answers, weights: torch.Tensor) -> None:
        """See a batch's rows of ``group`` ("forget" or "retain") and their sample weights, (batch,)."""

    def advance(self) -> None:
        """One optimiser step was made."""

    def penalty(self, model: PeftModel, inputs: Mapping[str, Group]) -> torch.Tensor | None:
        """A scalar added to the loss of each step, or None; ``inputs`` are the step's rows by group."""
        return None

    def logged(self) -> dict[str, Any]:
        """What a line of the training log says of it: all of it, unless that is too much to read."""
        return self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
