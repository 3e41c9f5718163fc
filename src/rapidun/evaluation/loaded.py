"""What evaluation needs of a loaded model."""

from __future__ import annotations

from collections.abc import Callable
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
