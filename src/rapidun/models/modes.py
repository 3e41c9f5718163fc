"""Evaluation or training mode inside a block, everything as before after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode for every module; each one's own mode is restored, also after an exception."""
    others = [module for module in every_module(model) if module.training != training]
    try:
        if others:
            model.train(training)
        yield
    finally:
        for module in others:
            module.training = not training


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Evaluation mode inside a block."""
    return in_mode(model, False)


def every_module(model: nn.Module) -> list[nn.Module]:
    """Every module once, like ``model.modules()``, whose nested generators take milliseconds for a PEFT model."""
    found: dict[nn.Module, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = None
            waiting += [child for child in module._modules.values() if child is not None]
    return list(found)
