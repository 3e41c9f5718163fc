"""Which linear layers a model uses otherwise than by calling them on its batch of rows, found by asking it.

Mamba multiplies with ``dt_proj.weight`` and never calls ``dt_proj``; its fused kernels do so with more. A hook on such
a layer sees nothing, and a low-rank factor beside it changes nothing. Experts that are layers of their own see loose
tokens that no longer belong to a row. Names do not tell, and kernels differ by machine: a forward pass of a few tokens
does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rapidun.models.modes import in_mode

_ROWS, _TOKENS = 2, 7
READ_DIRECTLY = "the model reads its weight without calling it"
LOOSE_TOKENS = "it sees tokens that are not arranged in rows"
NOT_A_PRODUCT = "it gives something else than its product"


def bypassed_layers(model: Any, layers: Mapping[str, nn.Module], *, training: bool = False) -> dict[str, str]:
    """Why not, for each of ``layers`` that cannot be hooked or adapted; the others are left out.

    A layer that takes no part in this pass (an expert without tokens) is not named.
    """
    if not callable(getattr(model, "get_input_embeddings", None)) or not layers:
        return {}
    seen: dict[str, str] = {}
    with in_mode(model, training), torch.no_grad(), torch.random.fork_rng(), _looked_at(layers, seen):
        _run(model)
    odd = {name: why for name, why in seen.items() if why}
    silent = {name: layer for name, layer in layers.items() if name not in seen}
    with in_mode(model, training), torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        return odd | dict.fromkeys(_taking_part(model, silent), READ_DIRECTLY)


def _run(model: Any) -> torch.Tensor:
    embeddings = model.get_input_embeddings()
    device = next(embeddings.parameters()).device
    ids = torch.arange(1, 1 + _ROWS * _TOKENS, device=device).remainder(embeddings.num_embeddings)
    ids = ids.view(_ROWS, _TOKENS)
    logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


def _in_rows(shape: tuple[int, ...]) -> bool:
    return (len(shape) >= 3 and shape[0] == _ROWS) or (len(shape) == 2 and shape[0] == _ROWS * _TOKENS)


def _taking_part(model: Any, layers: Mapping[str, nn.Module]) -> list[str]:
    """Those of ``layers``, which are never called, that the logits depend on all the same."""
    weights: dict[str, Any] = {name: getattr(layer, "weight", None) for name, layer in layers.items()}
    found = {name: weight for name, weight in weights.items() if _takes_gradients(weight)}
    if not found:
        return []
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for weight in found.values():
            weight.requires_grad_(True)
        logits = _run(model)
        if not logits.requires_grad:
            return []
        given = torch.autograd.grad(logits.float().sum(), list(found.values()), allow_unused=True)
        return [name for name, gradient in zip(found, given, strict=True) if gradient is not None]
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _takes_gradients(weight: Any) -> bool:
    return isinstance(weight, nn.Parameter) and weight.is_floating_point() and weight.device.type != "meta"


@contextmanager
def _looked_at(layers: Mapping[str, nn.Module], seen: dict[str, str]) -> Iterator[None]:
    """Note of every layer that is called what is odd about its call; empty where nothing is."""

    def note(name: str) -> Any:
        def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            given = next(iter((*args, *kwargs.values())))
            if not isinstance(output, torch.Tensor) or output.shape[:-1] != given.shape[:-1]:
                seen[name] = NOT_A_PRODUCT
            elif not seen.get(name):
                seen[name] = "" if _in_rows(tuple(given.shape)) else LOOSE_TOKENS

        return hook

    handles = [layer.register_forward_hook(note(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
