"""A model as it answers: evaluation mode, adapters in the model's precision, nothing copied for the output layer.

Two defaults of the libraries below take most of the time and memory of answering on a CPU, and change no value:

* PEFT keeps an adapter's factors in float32 and copies every layer's input to it. In a half-precision model rounded
  factors on inputs as they are give the values of mixed-precision training (`lora.in_base_dtype`).
* PyTorch multiplies a strided (batch, 1, width) by a matrix that takes no gradient as ``batch`` products, and copies
  the matrix for each: 3.6 GB for 64 prompts and 49,152 words. `generate` gives the output layer such a slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rapidun.models.losses import output_layer
from rapidun.models.modes import evaluating, every_module


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Inside, ``model`` answers in evaluation mode; afterwards its modules and parameters are the ones it had."""
    with evaluating(model), _rounded_factors(model), _contiguous_states(model):
        yield


@contextmanager
def _rounded_factors(model: Any) -> Iterator[None]:
    """A half-precision model's LoRA factors in its dtype. Parameters are exchanged, not changed: optimisers hold them.

    Other adapters, and DoRA, whose magnitudes are computed from the factors, stay in float32.
    """
    dtype = getattr(model, "dtype", None)
    layers = _factor_layers(model) if dtype in (torch.bfloat16, torch.float16) else []
    own: list[Any] = [layer._parameters["weight"] for layer in layers]
    for layer, weight in zip(layers, own, strict=True):
        layer._parameters["weight"] = torch.nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in zip(layers, own, strict=True):
            layer._parameters["weight"] = weight


def _factor_layers(model: Any) -> list[torch.nn.Linear]:
    """The linear layers that hold plain LoRA factors in float32."""
    adapted: list[Any] = [module for module in every_module(model) if hasattr(module, "lora_A")]
    factors = [
        factor[name] for each in adapted for factor in (each.lora_A, each.lora_B) for name in factor
        if not each.use_dora.get(name)
    ]  # fmt: skip
    return [each for each in factors if type(each) is torch.nn.Linear and each.weight.dtype == torch.float32]


@contextmanager
def _contiguous_states(model: Any) -> Iterator[None]:
    def contiguous(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (inputs[0].contiguous(), *inputs[1:]) if inputs else None

    head = output_layer(model)
    handle = head.register_forward_pre_hook(contiguous) if head is not None else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
