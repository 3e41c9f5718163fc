"""Weights rounded to a few bits, by plain arithmetic that runs everywhere."""

from __future__ import annotations

import torch

GROUP = 32


def nearest(weight: torch.Tensor, bits: int, group: int = GROUP) -> torch.Tensor:
    """``w ~ s round(w / s)`` with ``s = max |w| / (2^(bits-1) - 1)`` of a group of a row; same shape and dtype.

    Rounding to the nearest of ``2^bits - 1`` levels, symmetric, in groups of the last dimension with one scale each.
    8 bits are GGUF's Q8_0; 4 bits are close to its Q4_0. A last group that is shorter has a scale of its own. Groups
    of zeros stay zero.
    """
    levels = 2 ** (bits - 1) - 1
    short = -weight.shape[-1] % group
    padded = torch.nn.functional.pad(weight.float(), (0, short)).unflatten(-1, (-1, group))
    scale = padded.abs().amax(dim=-1, keepdim=True) / levels
    found = torch.where(scale > 0, (padded / scale).round() * scale, torch.zeros_like(padded))
    return found.flatten(-2)[..., : weight.shape[-1]].to(weight.dtype)
