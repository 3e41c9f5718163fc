"""A tracked tensor: its name, the layers whose calls tell its gradient, and how the calls are put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from rapidun.gradients.factors import Gradients, LayerGradients, TensorGradients


@dataclass(frozen=True)
class TrackedTensor:
    """One weight tensor, the layers that use it, and its number of values."""

    name: str
    layers: tuple[nn.Module, ...]
    size: int

    @property
    def parts(self) -> int:
        """By how much the factors of all calls together are wider than those of one call."""
        return 1

    def gradients(self, calls: Sequence[LayerGradients]) -> Gradients:
        """The tensor's per-example gradients, from every call of its layers."""
        return TensorGradients(calls)

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Inside, the model runs so that hooks on `layers` see every product with this tensor."""
        yield
