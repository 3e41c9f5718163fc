"""Similarity of the model's own hidden states: the strongest of the cheap baselines on small models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from rapidun.attribution.similarity import Array, prepared
from rapidun.data.batches import IGNORE_INDEX, Example, collate
from rapidun.errors import ModelError
from rapidun.gradients.state import device_of
from rapidun.models.losses import decoder_states
from rapidun.models.modes import evaluating
from rapidun.models.passes import pass_batches


def hidden_similarity(
    model: nn.Module, queries: Sequence[Example], pool: Sequence[Example], pad_token_id: int, *, max_tokens: int = 8192
) -> Array:
    """Cosine of hidden vectors after subtracting the pool's mean, (queries, pool) float32.

    Centred, because the hidden states of a language model share a large common part that hides their
    differences. A pool of one row is its own mean: its similarities are 0.

    Args:
        model: A Hugging Face causal LM or a PEFT model around one.
        queries: Tokenised rows to find neighbours of.
        pool: Tokenised rows to be ranked.
        pad_token_id: Any token id.
        max_tokens: Padded size of a batch, in tokens.
    """
    if not queries or not pool:
        return np.zeros((len(queries), len(pool)), dtype=np.float32)
    vectors = hidden_vectors(model, pool, pad_token_id, max_tokens=max_tokens)
    asked = hidden_vectors(model, queries, pad_token_id, max_tokens=max_tokens)
    centre = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    similarities: Array = prepared(asked - centre, "cosine") @ prepared(vectors - centre, "cosine").T
    return similarities


def hidden_vectors(
    model: nn.Module,
    examples: Sequence[Example],
    pad_token_id: int,
    *,
    max_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Last layer's hidden states averaged over each row's answer tokens, (n, hidden size) float32.

    A row without answer tokens is zero. The model is in evaluation mode meanwhile, and as before afterwards.
    """
    return hidden_views(model, examples, pad_token_id, max_tokens=max_tokens, progress=progress).answer_mean


class HiddenViews(NamedTuple):
    """Two looks at each row, both (n, hidden size) float32 of the last layer.

    Args:
        answer_mean: Mean over the row's answer tokens: what the answer is about.
        last_prompt: At the prompt's last token, where the model decides how to answer.
    """

    answer_mean: Array
    last_prompt: Array


def hidden_views(
    model: nn.Module,
    examples: Sequence[Example],
    pad_token_id: int,
    *,
    max_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> HiddenViews:
    """Both views from one forward pass; rows in the order of ``examples``; ``progress`` hears (rows done, all)."""
    device = device_of(model)
    found: dict[int, torch.Tensor] = {}
    with evaluating(model), torch.no_grad():
        for indices in pass_batches(model, examples, max_tokens, backward=False):
            rows = [examples[index] for index in indices]
            batch = collate(rows, pad_token_id).to(device)
            states = decoder_states(model, batch.input_ids, batch.attention_mask)[-1].float()
            answers = (batch.labels != IGNORE_INDEX).to(states.device)
            if states.ndim != 3:
                raise ModelError(
                    f"{type(model).__name__}: its hidden states are of shape {tuple(states.shape)}, not (rows, tokens, "
                    "width), so rows cannot be compared by them. Compare by gradient or words."
                )
            # b t h, b t -> b h
            sums = torch.einsum("bth,bt->bh", states, answers.float())
            means = sums / answers.sum(dim=1, keepdim=True).clamp_min(1)
            ends = torch.tensor([row.answer_start - 1 for row in rows], device=states.device)
            decides = states[torch.arange(len(rows), device=states.device), ends]
            found.update(zip(indices, torch.stack([means, decides], dim=1).cpu(), strict=True))
            if progress is not None:
                progress(len(found), len(examples))
    if not found:
        return HiddenViews(*np.zeros((2, 0, 0), dtype=np.float32))
    stacked = torch.stack([found[index] for index in range(len(examples))]).numpy()
    return HiddenViews(np.ascontiguousarray(stacked[:, 0]), np.ascontiguousarray(stacked[:, 1]))
