"""Per-example weight gradients of one layer, from its activations and its output gradients.

A layer type is supported by one registered function; nothing else has to change::

    @register_layer(nn.Linear)
    def linear(layer, activations, output_gradients): ...

For ``y_t = W a_t`` the gradient of example ``b`` is ``sum_t g_bt a_bt^T``: what autograd sums over the batch is
summed here over the positions of each example alone. Biases are not tracked: their gradient is the sum of the
output gradients, which the weight gradient already contains up to the mean activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rapidun.errors import ModelError

LayerGradient = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
_Function = TypeVar("_Function", bound=LayerGradient)


class LayerKind(NamedTuple):
    """What `register_layer` was told of a layer type."""

    gradient: LayerGradient
    outer_product: bool


_REGISTERED: dict[type[nn.Module], LayerKind] = {}


def register_layer(layer_type: type[nn.Module], *, outer_product: bool = False) -> Callable[[_Function], _Function]:
    """Support ``layer_type`` and its subclasses by the decorated function.

    The function gets ``(layer, activations, output_gradients)``, float32 tensors of shapes (batch, positions,
    inputs) and (batch, positions, outputs), and returns the per-example gradient of ``layer.weight``, float32,
    of shape (batch, *weight shape). It need not read the weight, so a quantised layer is supported like any other.
    Where the pass is in bfloat16, one of an outer product gets bfloat16 and may return it.

    Args:
        layer_type: The layer.
        outer_product: Whether the gradient is ``sum_t g_t a_t^T`` (or its transpose), so that `FactoredSketch`,
            `Readout` and the Kronecker preconditioners may work on the factors.
    """

    def register(function: _Function) -> _Function:
        _REGISTERED[layer_type] = LayerKind(function, outer_product)
        return function

    return register


def is_supported(layer: nn.Module) -> bool:
    """Whether the layer's type, or a type it derives from, is registered."""
    return any(base in _REGISTERED for base in type(layer).__mro__)


def layer_kind(layer: nn.Module) -> LayerKind:
    """What is registered of the layer's nearest type.

    Raises:
        ModelError: If none of its types is registered.
    """
    for base in type(layer).__mro__:
        if base in _REGISTERED:
            return _REGISTERED[base]
    known = ", ".join(sorted(kind.__name__ for kind in _REGISTERED))
    raise ModelError(
        f"{type(layer).__name__} layers have no per-example gradient (known: {known}). "
        "Choose other targets, or register one with @register_layer."
    )


def weight_size(layer: nn.Module) -> int:
    """Number of weights, also of quantised linear layers, whose stored tensor is packed or has another name."""
    if hasattr(layer, "in_features") and hasattr(layer, "out_features"):
        return cast(int, layer.out_features) * cast(int, layer.in_features)
    return math.prod(cast(torch.Tensor, layer.weight).shape)


@register_layer(nn.Linear, outer_product=True)
def linear(layer: nn.Module, activations: torch.Tensor, output_gradients: torch.Tensor) -> torch.Tensor:
    """(batch, outputs, inputs): ``b t o, b t i -> b o i``."""
    return torch.bmm(output_gradients.transpose(1, 2), activations)


@register_layer(Conv1D, outer_product=True)
def conv1d(layer: nn.Module, activations: torch.Tensor, output_gradients: torch.Tensor) -> torch.Tensor:
    """GPT-2's transposed linear layer, (batch, inputs, outputs): ``b t i, b t o -> b i o``."""
    return torch.bmm(activations.transpose(1, 2), output_gradients)
