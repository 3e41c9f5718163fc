"""Cross-entropy of single tokens out of a large matrix of logits, a few rows of it at a time.

    l_i = log sum_v exp z_iv - z_it,    dl_i / dz_iv = softmax(z_i)_v - [v = t]

A vocabulary of 50,000 makes the float32 copies, logarithms and probabilities of a few hundred tokens the largest
tensors of a training step. Here they exist for a few tokens at a time, which the processor's cache holds; the backward
pass makes them again. Not differentiable twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cpu": 4 << 20}
OTHER_CHUNK_BYTES = 256 << 20


def token_losses(logits: torch.Tensor, places: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Loss of ``target[i]`` under ``logits[places[i]]``, computed in float32.

    Args:
        logits: (positions, vocabulary), any float dtype.
        places: (tokens,) int64, no position twice.
        target: (tokens,) int64, each in [0, vocabulary).

    Returns:
        (tokens,) float32.
    """
    found: torch.Tensor = _TokenLosses.apply(logits, places, target)  # type: ignore[no-untyped-call]
    return found


def chunks(logits: torch.Tensor, tokens: int) -> list[slice]:
    """Parts of ``tokens`` tokens, each so few that their float32 logits fit the processor's cache."""
    budget = CHUNK_BYTES.get(logits.device.type, OTHER_CHUNK_BYTES)
    size = max(1, budget // (4 * logits.shape[1]))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, places: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        normalisers = torch.empty(len(places), dtype=torch.float32, device=logits.device)
        chosen = torch.empty_like(normalisers)
        for part in chunks(logits, len(places)):
            values = logits[places[part]].float()
            normalisers[part] = values.logsumexp(dim=1)
            chosen[part] = values.gather(1, target[part, None])[:, 0]
        ctx.save_for_backward(logits, places, target, normalisers)
        return normalisers - chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, places, target, normalisers = ctx.saved_tensors
        found = torch.zeros_like(logits)
        for part in chunks(logits, len(places)):
            values = logits[places[part]].float().sub_(normalisers[part, None]).exp_()
            values.scatter_add_(1, target[part, None], values.new_full((len(values), 1), -1.0))
            found[places[part]] = values.mul_(gradient[part, None]).to(found.dtype)
        return found, None, None
