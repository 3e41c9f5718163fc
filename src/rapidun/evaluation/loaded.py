"""What evaluation needs of a loaded model, and how it leaves the model as it found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

Progress = Callable[[int, int], None]
"""Receives (done, total)."""


class Loaded(Protocol):
    """A model on a device with its tokenizer; `rapidun.models.LoadedModel` is one."""

    @property
    def model(self) -> Any:
        """A causal language model, or a PEFT model around one."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""

    @property
    def device(self) -> torch.device:
        """Where inputs go."""


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off (trap 10); every module's own mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
