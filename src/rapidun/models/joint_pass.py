"""Several groups of rows through a model together, and each group's answers out of it.

A pass over one to three short rows costs nearly as much in overhead and in memory traffic as one over ten. Groups
whose joint padding is cheaper than a pass of their own are padded to one length and run as one batch; the output
layer gets the positions that predict answer tokens and hardly any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rapidun.data.batches import IGNORE_INDEX, Batch
from rapidun.models.losses import logits_at, next_tokens

PASS_TOKENS = 64
"""Tokens of padding that are taken to cost less than another pass of a few rows. Not tuned."""


@dataclass(frozen=True)
class AnswerStates:
    """A group's answers, each row's moved to the left.

    Args:
        logits: (rows, kept, vocabulary), kept = the most answer tokens of a row, and one.
        labels: (rows, kept) int64, first column and padding -100; not shifted: position ``t`` predicts label ``t + 1``.
        hidden: (rows, kept, width) of the layer asked for, or None.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    hidden: torch.Tensor | None = None


def answer_states(
    model: torch.nn.Module, groups: Mapping[str, Batch], layer: int | None = None
) -> dict[str, AnswerStates]:
    """Logits, and hidden states where a layer is given, at the answers of every group.

    Args:
        model: A causal LM, with or without an adapter; in training or in evaluation mode.
        groups: Batches by name, all on the model's device.
        layer: 0 is the embeddings, l the output of block l.

    Returns:
        By name. Values are those of a pass over each row alone, up to rounding.
    """
    found: dict[str, AnswerStates] = {}
    for names in joint_passes({name: batch.input_ids.shape for name, batch in groups.items()}):
        states = _one_pass(model, [groups[name] for name in names], layer)
        found |= dict(zip(names, states, strict=True))
    return found


def joint_passes(shapes: Mapping[str, Sequence[int]]) -> list[list[str]]:
    """Which groups, of (rows, length), go together: shortest first, as long as the padding is cheaper than a pass."""
    passes: list[list[str]] = []
    rows = length = 0
    for name in sorted(shapes, key=lambda name: shapes[name][1]):
        own_rows, own_length = shapes[name]
        if passes and rows * (own_length - length) <= PASS_TOKENS:
            passes[-1].append(name)
            rows += own_rows
        else:
            passes.append([name])
            rows = own_rows
        length = own_length
    return passes


def _one_pass(model: torch.nn.Module, batches: list[Batch], layer: int | None) -> list[AnswerStates]:
    length = max(batch.input_ids.shape[1] for batch in batches)
    input_ids, attention_mask, labels = (
        torch.cat([F.pad(values, (0, length - values.shape[1]), value=fill) for values in given])
        for given, fill in (
            ([batch.input_ids for batch in batches], 0),
            ([batch.attention_mask for batch in batches], 0),
            ([batch.labels for batch in batches], IGNORE_INDEX),
        )
    )
    places, kept_labels, first = [], [], 0
    for batch in batches:
        rows = len(batch)
        at, kept = _answers_first(labels[first : first + rows])
        starts = torch.arange(first, first + rows, device=at.device)[:, None] * length
        places.append(starts + at)
        kept_labels.append(kept)
        first += rows
    flat = torch.cat([place.flatten() for place in places])
    sizes = [place.numel() for place in places]
    options = {} if layer is None else {"output_hidden_states": True}
    logits, output = logits_at(model, input_ids, attention_mask, flat, **options)
    hidden: Sequence[torch.Tensor | None] = [None] * len(batches)
    if layer is not None:
        states = output.hidden_states[layer][:, -length:].flatten(0, 1)
        hidden = [part.unflatten(0, place.shape) for part, place in zip(states[flat].split(sizes), places, strict=True)]
    parts = zip(logits.split(sizes), kept_labels, hidden, strict=True)
    return [AnswerStates(part.unflatten(0, kept.shape), kept, states) for part, kept, states in parts]


def _answers_first(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``(places, labels)``, both (rows, kept): where answer tokens are predicted, and `AnswerStates.labels`."""
    target = next_tokens(labels)
    answers = target != IGNORE_INDEX
    width = max(1, int(answers.sum(dim=1).max()))
    order = (~answers).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    kept = target.gather(1, order)  # where a row has fewer answer tokens, positions that predict none follow
    return torch.cat([order, order[:, -1:]], dim=1), F.pad(kept, (1, 0), value=IGNORE_INDEX)
