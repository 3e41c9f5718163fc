"""Hidden states of a forward pass, pooled while it runs: the mean over the answer, and the state that decides on it.

Layers count as in ``output_hidden_states``: 0 is the embeddings, n the last layer after the final norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from rapidun.data import IGNORE_INDEX
from rapidun.errors import ModelError


@contextmanager
def pooled_states(model: nn.Module, labels: torch.Tensor, layers: Sequence[int]) -> Iterator[dict[str, torch.Tensor]]:
    """Hooks that pool the hidden states of the forward pass run inside; nothing but the pooled vectors is kept.

    Of each layer the mean over the tokens that carry loss, and the state before the first of them, where the model
    decides what to say: the last prompt token's, or of a query about words the token's before the first word.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        labels: (batch, length), -100 on prompt and padding.
        layers: Numbers as in ``output_hidden_states``.

    Yields:
        Filled by the pass: matrix name to (batch, width) float32.
    """
    decoder, blocks = decoder_of(model)
    found: dict[str, torch.Tensor] = {}

    def before(layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        _pool(layer, args[0] if args else kwargs["hidden_states"], labels, found)

    def after(layer: int, module: nn.Module, args: Any, output: Any) -> None:
        _pool(layer, output[0], labels, found)

    with ExitStack() as undo:
        for layer in layers:
            if layer == len(blocks):  # the decoder's own output is the last layer's after the final norm
                handle = decoder.register_forward_hook(partial(after, layer))
            else:
                handle = blocks[layer].register_forward_pre_hook(partial(before, layer), with_kwargs=True)
            undo.enter_context(handle)
        yield found


def decoder_of(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    """The module that ends with the final norm, and its layers; inside a PEFT wrapper too.

    Raises:
        ModelError: If no list of layers is found.
    """
    depth = depth_of(model)
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return module, child
    raise ModelError(f"{type(model).__name__}: no list of {depth} layers was found, so hidden states cannot be taken.")


def matrix_name(layer: int, place: str) -> str:
    """Name of one layer's vectors: ``hidden.LAYER.answer`` or ``hidden.LAYER.prompt``."""
    return f"hidden.{layer}.{place}"


def depth_of(model: Any) -> int:
    """Number of the last layer."""
    return int(model.config.get_text_config().num_hidden_layers)


def width_of(model: Any) -> int:
    """Length of a hidden state."""
    return int(model.config.get_text_config().hidden_size)


@torch.no_grad()
def _pool(layer: int, states: torch.Tensor, labels: torch.Tensor, found: dict[str, torch.Tensor]) -> None:
    states = states.detach()
    if states.shape[:2] != labels.shape or states.ndim != 3:
        raise ModelError(
            f"hidden states of layer {layer} are of shape {tuple(states.shape)}, not (rows, tokens, width), so rows "
            "cannot be compared by them. Leave them out: --views gradient,lexical, or --by gradient,lexical."
        )
    answers = (labels != IGNORE_INDEX).to(states.device)
    sums = torch.einsum("bth,bt->bh", states.float(), answers.float())
    found[matrix_name(layer, "answer")] = sums / answers.sum(dim=1, keepdim=True).clamp_min(1)
    last = (answers.int().argmax(dim=1) - 1).clamp_min(0)
    found[matrix_name(layer, "prompt")] = states[torch.arange(len(states), device=states.device), last].float()
