"""The one place where logits meet labels: shifted by one, answer tokens only, one value per row.

Every other room (gradients, unlearning, evaluation) calls these functions, so there is one shift to get
right and one mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel

from rapidun.data.batches import IGNORE_INDEX
from rapidun.models.token_losses import token_losses


def next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """``labels`` moved to the position that predicts them: (batch, length), the last position -100."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)


def answer_token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every answer token.

    Args:
        logits: (batch, length, vocabulary), any float dtype; computed in float32, once differentiable.
        labels: (batch, length) int64, -100 where no loss is wanted; not shifted.

    Returns:
        ``(losses, mask)``, both (batch, length - 1): position ``t`` is the loss of predicting token ``t + 1``;
        losses are float32 and 0 where the boolean mask is False.
    """
    target = labels[:, 1:]
    mask = target != IGNORE_INDEX
    places = (next_tokens(labels) != IGNORE_INDEX).flatten().nonzero().flatten()
    losses = torch.zeros(target.shape, dtype=torch.float32, device=logits.device)
    losses[mask] = token_losses(logits.flatten(0, 1), places, target[mask])
    return losses, mask


def answer_logits(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a forward pass and labels, both cut to where answers are.

    The output layer is the largest of a small model, and what it says about the shared start of the prompts is never
    looked at. Models whose ``forward`` has no ``logits_to_keep`` give all positions.

    Args:
        model: A causal LM, with or without an adapter.
        input_ids: (batch, length) int64.
        attention_mask: (batch, length).
        labels: (batch, length) int64, -100 where no loss is wanted; not shifted.

    Returns:
        ``(logits, labels)`` of (batch, kept, vocabulary) and (batch, kept): the last positions, from the one that
        predicts the first answer token of any row.
    """
    kept = _kept(model, labels)
    output = _forward(model, input_ids, attention_mask, kept)
    return output.logits[:, -kept:], labels[:, -kept:]


def answer_token_logits(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the answer tokens alone, and those tokens.

    The output layer gets the last hidden states of the positions that predict an answer token and no others: neither
    prompts nor padding, however long the rows beside them.

    Args:
        model: A causal LM, with or without an adapter.
        input_ids: (batch, length) int64.
        attention_mask: (batch, length).
        labels: (batch, length) int64, -100 where no loss is wanted; not shifted.

    Returns:
        ``(logits, target)``: (tokens, vocabulary), row by row, and (batch, length) int64 on the same device, the token
        that each position predicts, -100 where it carries no loss.
    """
    target = next_tokens(labels)
    places = (target != IGNORE_INDEX).flatten().nonzero().flatten()
    logits, _ = logits_at(model, input_ids, attention_mask, places)
    return logits, target.to(logits.device)


def logits_at(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, places: torch.Tensor, **options: bool
) -> tuple[torch.Tensor, Any]:
    """Logits at some positions of a batch, without those of the others.

    Args:
        model: A causal LM, with or without an adapter.
        input_ids: (batch, length) int64.
        attention_mask: (batch, length).
        places: (positions,) int64: row times length plus position; a place may come twice.
        options: Of the model's forward pass.

    Returns:
        ``(logits, output)``: (positions, vocabulary), and the model's output, whose own logits are of no use.
    """
    with _output_layer_at(model, places, input_ids.shape) as cut:
        output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **options)
    if cut:
        return output.logits.flatten(0, 1), output
    logits = output.logits[:, -input_ids.shape[1] :]  # a tuned prompt's virtual tokens come first
    return logits.flatten(0, 1).index_select(0, places.to(logits.device)), output


def run_decoder(model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any) -> Any:
    """The model's output without logits to speak of: its output layer sees one position alone.

    The logits of all positions are the largest tensor of a pass, and nobody looks at them.
    """
    with _output_layer_at(model, torch.zeros(1, dtype=torch.long), input_ids.shape):
        return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **options)


def output_layer(model: torch.nn.Module) -> torch.nn.Module | None:
    """The layer that gives the logits, also of a model that a trainer has wrapped; None where it is not told."""
    getter = getattr(getattr(model, "module", model), "get_output_embeddings", None)
    found = getter() if callable(getter) else None
    return found if isinstance(found, torch.nn.Module) else None


@contextmanager
def _output_layer_at(model: torch.nn.Module, places: torch.Tensor, shape: torch.Size) -> Iterator[list[bool]]:
    """Give the output layer, where the model names one, the hidden states at ``places`` of (batch x length).

    What it yields is empty as long as that has not happened.
    """
    head = output_layer(model)
    happened: list[bool] = []

    def cut(layer: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or inputs[0].shape[:2] != shape:
            return None
        happened.append(True)
        hidden = inputs[0].flatten(0, 1).index_select(0, places.to(inputs[0].device))
        return hidden.unsqueeze(0), *inputs[1:]

    handle = head.register_forward_pre_hook(cut) if head is not None and len(places) else None
    try:
        yield happened
    finally:
        if handle is not None:
            handle.remove()


def _kept(model: torch.nn.Module, labels: torch.Tensor) -> int:
    """Positions from the one that predicts the first answer token of any row to the end; all where it cannot cut."""
    if not _can_cut(model):
        return labels.shape[1]
    answers = (labels != IGNORE_INDEX).any(dim=0).nonzero()
    return labels.shape[1] - max(int(answers[0]) - 1, 0) if len(answers) else 1


def _forward(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor, kept: int, **options: bool
) -> Any:
    cut = {"logits_to_keep": kept} if _can_cut(model) else {}
    with _whole_input(output_layer(model)):
        return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **cut, **options)


@contextmanager
def _whole_input(layer: torch.nn.Module | None) -> Iterator[None]:
    """Copy a layer's input to where its rows lie together.

    Kept positions are a slice, whose product with a frozen matrix PyTorch computes row by row on copies of that matrix.
    """
    if layer is None:
        yield
        return
    handle = layer.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]) if given else None)
    try:
        yield
    finally:
        handle.remove()


def _can_cut(model: torch.nn.Module) -> bool:
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def sum_answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``S = sum_t l_t`` of each row over its answer tokens, (batch,) float32."""
    return answer_token_losses(logits, labels)[0].sum(dim=1)


def mean_answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``L = mean_t l_t`` of each row over its own answer tokens, (batch,) float32.

    Does not depend on the other rows of the batch. A row without answer tokens has loss 0.
    """
    losses, mask = answer_token_losses(logits, labels)
    return losses.sum(dim=1) / mask.sum(dim=1).clamp_min(1)
