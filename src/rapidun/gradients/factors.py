"""One weight tensor's per-example gradients before they are formed: activations and output errors, token by token.

For ``y_t = W a_t`` the gradient is ``sum_t g_t a_t^T``. Whoever needs its values asks for them (`formed`); who can
work on the factors takes those (`factors`), and the gradient of a big layer never exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from rapidun.errors import ConfigError, ModelError
from rapidun.gradients.layers import layer_kind


class Gradients(Protocol):
    """One tensor's per-example gradients, in whichever form the one who takes them wants."""

    def formed(self) -> torch.Tensor:
        """(rows, size) float32, in the layout of the weight; may be overwritten."""

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(activations, errors)``, (rows, tokens, inputs or outputs): the gradient is ``sum_t g_t a_t^T``.

        float32, or bfloat16 where the pass was in bfloat16.
        """

    def with_factors(self, activations: torch.Tensor, errors: torch.Tensor) -> Gradients:
        """Gradients of the same tensor with these factors."""


@dataclass(frozen=True)
class LayerGradients:
    """One call of one layer: ``activations`` (rows, tokens, inputs), ``errors`` (rows, tokens, outputs).

    float32, or bfloat16 where the pass was in bfloat16.
    """

    layer: nn.Module
    activations: torch.Tensor
    errors: torch.Tensor

    def formed(self) -> torch.Tensor:
        """(rows, size) float32 in the layout of the layer's weight.

        The product of bfloat16 factors is a bfloat16 value summed in float32, as autograd's is: five times faster
        than the same product of float32 copies, and float32's range.
        """
        return layer_kind(self.layer).gradient(self.layer, self.activations, self.errors).flatten(1).float()


@dataclass(frozen=True)
class TensorGradients:
    """The calls whose gradients add up to one tensor's: one, or several where layers share a weight."""

    calls: Sequence[LayerGradients]

    def formed(self) -> torch.Tensor:
        """(rows, size) float32: the gradient's values, in the layout of the weight. The caller may overwrite it."""
        gradients = self.calls[0].formed()
        for call in self.calls[1:]:
            gradients += call.formed()
        return gradients

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(activations, errors)``, (rows, tokens, inputs or outputs); the tokens of several calls side by side.

        float32, or bfloat16 where the pass was in bfloat16.

        Raises:
            ModelError: If the gradient of such a layer is not a sum of outer products.
        """
        for call in self.calls:
            if not layer_kind(call.layer).outer_product:
                raise ModelError(
                    f"The gradient of {type(call.layer).__name__} layers is not known to be a sum of outer products. "
                    "Use RapidGrad or Exact without a Kronecker preconditioner, or register the layer with "
                    "outer_product=True."
                )
        if len(self.calls) == 1:
            return self.calls[0].activations, self.calls[0].errors
        activations = torch.cat([call.activations for call in self.calls], dim=1)
        return activations, torch.cat([call.errors for call in self.calls], dim=1)

    def with_factors(self, activations: torch.Tensor, errors: torch.Tensor) -> TensorGradients:
        """The gradients with these factors in the place of their own."""
        return TensorGradients([LayerGradients(self.calls[0].layer, activations, errors)])


@dataclass(frozen=True)
class FormedGradients:
    """Gradients whose values exist and whose factors do not; ``why`` begins the error of who asks for factors."""

    values: torch.Tensor
    why: str

    def formed(self) -> torch.Tensor:
        """(rows, size) float32."""
        return self.values

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """There are none.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.why}, and this sketch takes only factors. Use RapidGrad or Exact.")

    def with_factors(self, activations: torch.Tensor, errors: torch.Tensor) -> Gradients:
        """Not without a layer: as `factors`.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(f"{self.why}: it cannot be replaced by factors. Use one preconditioner, not two.")


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

    def prepared(self) -> AbstractContextManager[None]:
        """Inside, the model runs so that hooks on `layers` see every product with this tensor."""
        return nullcontext()
