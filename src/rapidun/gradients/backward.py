"""A backward pass through a borrowed model: evaluation mode, frozen parameters, and what is sent back from the logits.

Evaluation mode, because dropout makes a gradient or a hidden state depend on chance. Frozen, so that
autograd computes no weight gradient and writes no ``.grad``. Everything is as before afterwards.

The gradient of the mean answer loss at the logits is ``(p_t - e_y) / T`` at each of the row's T answer tokens.
RapidUn (arXiv 2512.04457, eq. 1) normalises every token's gradient; dividing ``p_t - e_y`` by its norm does so
at the output, in the same backward pass. Untreated, a few surprising tokens carry the whole gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from rapidun.data.batches import IGNORE_INDEX
from rapidun.errors import ModelError
from rapidun.models.losses import next_tokens
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
    with input_embeddings(model).register_forward_hook(lambda module, inputs, output: output.requires_grad_(True)):
        yield


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


def answer_signal(logits: torch.Tensor, labels: torch.Tensor, *, unit: bool, scale: float = 1.0) -> torch.Tensor:
    """`answer_errors` times ``scale`` at the positions that predict answer tokens, 0 elsewhere.

    Args:
        logits: (batch, length, vocabulary), any float dtype; computed in float32.
        labels: (batch, length) int64, -100 where no loss is wanted; not shifted.
        unit: See `answer_errors`.
        scale: Multiplies all of it, in float32.

    Returns:
        (batch, length, vocabulary) in the dtype of ``logits``.
    """
    target = next_tokens(labels).to(logits.device)
    answers = target != IGNORE_INDEX
    signal = torch.zeros_like(logits)
    signal[answers] = (answer_errors(logits.detach()[answers], target, unit=unit) * scale).to(logits.dtype)
    return signal


def answer_errors(logits: torch.Tensor, target: torch.Tensor, *, unit: bool) -> torch.Tensor:
    """``(p_t - e_y) / T``, the gradient of each row's mean answer loss at the logits of its T answer tokens.

    Args:
        logits: (tokens, vocabulary), any float dtype, of the answer tokens of all rows; computed in float32.
        target: (batch, length) int64: the token that each position predicts, -100 where it carries no loss.
        unit: Divide each token's error by its norm first; an error of 0 stays 0.

    Returns:
        (tokens, vocabulary) float32.
    """
    answers = target != IGNORE_INDEX
    errors = token_errors(logits, target[answers])
    if unit:
        errors = F.normalize(errors, dim=1, eps=torch.finfo(torch.float32).tiny)
    return errors.div_(answers.sum(dim=1, keepdim=True).expand_as(answers)[answers].unsqueeze(1))


def token_errors(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """``p_t - e_y`` of each token, (tokens, vocabulary) float32.

    Args:
        logits: (tokens, vocabulary), any float dtype; computed in float32.
        wanted: (tokens,) int64: the token that was to be predicted.
    """
    places = wanted.unsqueeze(1)
    errors = logits.softmax(dim=1, dtype=torch.float32).scatter_(1, places, 0)
    # what all other tokens have: 1 - p_y without its cancellation for tokens that are nearly certain
    return errors.scatter_(1, places, -errors.sum(dim=1, keepdim=True))
