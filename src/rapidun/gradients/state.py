"""The user's model, borrowed: evaluation mode and frozen parameters inside a block, everything as before after.

Evaluation mode, because dropout makes a gradient or a hidden state depend on chance. Frozen, so that
autograd computes no weight gradient and writes no ``.grad``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rapidun.errors import ModelError
from rapidun.models.modes import evaluating, every_module


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient; the flags are restored, also after an exception."""
    own = (parameter for module in every_module(model) for parameter in module._parameters.values())
    trainable = [parameter for parameter in own if parameter is not None and parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Inside, the model can be differentiated, in evaluation mode and without weight gradients of its own."""
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model), frozen(model):
        yield


def loss_scale(dtype: torch.dtype) -> float:
    """What a loss is multiplied by before the backward pass: more than 1 in float16, a power of two, exact to undo."""
    return 1024.0 if dtype == torch.float16 else 1.0


@contextmanager
def differentiable_inputs(model: nn.Module) -> Iterator[None]:
    """Let the input embeddings' output require a gradient: the one leaf that frozen weights leave.

    Raises:
        ModelError: If the model has no input embeddings.
    """
    handle = input_embeddings(model).register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
    try:
        yield
    finally:
        handle.remove()


def input_embeddings(model: nn.Module) -> nn.Module:
    """The module that turns token ids into vectors.

    Raises:
        ModelError: If the model does not say which one it is.
    """
    getter = getattr(model, "get_input_embeddings", None)
    found = getter() if callable(getter) else None
    if not isinstance(found, nn.Module):
        raise ModelError(f"{type(model).__name__} has no get_input_embeddings(). Give a Hugging Face causal LM.")
    return found


def device_of(model: nn.Module) -> torch.device:
    """Where the model expects its token ids."""
    return next(input_embeddings(model).parameters()).device
