"""What a method is given to work with, and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rapidun.data.batches import Example
from rapidun.models.loading import LoadedModel
from rapidun.unlearning.reweighing import Reweighing
from rapidun.unlearning.sampling import WeightedRows

if TYPE_CHECKING:  # settings know the methods, and methods take jobs
    from rapidun.settings.unlearning import LoraSettings, UnlearnSettings

Record = Callable[[dict[str, Any]], None]
FORGET_ROWS = 64
"""Forget rows whose loss is reported: enough to see whether they were forgotten, and cheap beside training."""
Saved = Literal["adapter", "model"]


@dataclass(frozen=True)
class Job:
    """One unlearning, as `rapidun.unlearning.unlearn` was called."""

    loaded: LoadedModel
    rows: WeightedRows
    settings: UnlearnSettings
    lora: LoraSettings
    held: list[Example]
    checkpoints: Path
    seed: int = 0
    resume: bool = False
    record: Record = lambda line: None
    progress: Callable[[int, int], None] | None = None
    reweighing: Reweighing | None = None
    note: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class UnlearnResult:
    """What training did.

    Args:
        model: The model after unlearning, in evaluation mode: a PEFT model with its adapter active where ``saved`` is
            "adapter", else a model whose own weights are the result.
        steps: Optimiser steps of what was kept.
        stopped: Why training ended before its last step, or why less was done than asked; None otherwise.
        adapter_change: Largest absolute change of an element that was trained.
        held_loss_before: Loss on the held retain rows before.
        held_loss_after: The same with what was kept.
        forget_loss_before: Loss on forget rows (at most `FORGET_ROWS`) before, per answer token.
        forget_loss_after: The same with what was kept; infinite or no number where training diverged.
        learning_rate: The peak, as set or derived; None for a method that trains nothing.
        share: Of the trained update, the part that holds the retain budget and was kept.
        saved: What has to be saved: the adapter alone, or the whole model.
        undo: Gives the loaded model its own weights again; ``model`` is of no use afterwards.
    """

    model: Any
    steps: int
    stopped: str | None
    adapter_change: float
    held_loss_before: float
    held_loss_after: float
    learning_rate: float | None = None
    share: float = 1.0
    saved: Saved = "adapter"
    undo: Callable[[], Any] = lambda: None
    forget_loss_before: float = math.nan
    forget_loss_after: float = math.nan

    def numbers(self) -> dict[str, Any]:
        """All but the model, for ``unlearning.json``; None for a loss that is not finite."""
        found = {name: value for name, value in vars(self).items() if name not in ("model", "undo")}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in found.items()
        }
