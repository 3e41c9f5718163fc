"""NF4: weights rounded as QLoRA and bitsandbytes store them, which is how 4-bit models are mostly loaded.

Blocks of 64 weights, row by row, have one scale each, ``s = max |w|``, and every
``w / s`` becomes the nearest of 16 values: quantiles of a normal distribution, with an exact 0 (Dettmers et al. 2023,
arXiv 2305.14314, appendix E). These levels lie closer together near 0 than those of `quantise`, so an update that
survives one rounding may be lost in the other. It is plain arithmetic here, so that a verdict does not depend on what
is installed; where bitsandbytes is, a test holds both equal, value by value. Scales are not rounded themselves
(bitsandbytes' double quantisation). Linear layers are rounded, embeddings and output head are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from rapidun.attacks.gate import within_limit
from rapidun.attacks.quantise import rounded
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Target, linear_weights
from rapidun.attacks.trial import Outcome, Trial
from rapidun.models.passes import Progress

BLOCK = 64
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Appendix E of the paper."""


@register_attack("nf4", title="rounded to NF4", unit="bits", efforts=(4,), bar=within_limit)
def nf4(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial, the adapter merged first."""
    linear_weights(target.loaded.model)
    return [
        Trial("", bits, f"NF4, {bits:g} bits", target.material.measured, partial(_measure, target)) for bits in efforts
    ]


def _measure(target: Target, said: Progress | None) -> list[Outcome]:
    with rounded(target.merged.model, nearest_nf4):
        return target.measure(target.merged, said)


def nearest_nf4(weight: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """``weight`` with every value at the nearest of its block's 16 levels; same shape and dtype.

    A last block that is shorter has a scale of its own. Blocks of zeros stay zero.
    """
    levels = torch.tensor(LEVELS, device=weight.device)
    flat = weight.float().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % block)).unflatten(0, (-1, block))
    scale = blocks.abs().amax(dim=1, keepdim=True)
    places = torch.bucketize(blocks / scale.clamp_min(torch.finfo(torch.float32).tiny), (levels[1:] + levels[:-1]) / 2)
    found: torch.Tensor = (levels[places] * scale).flatten()[: len(flat)]
    return found.view(weight.shape).to(weight.dtype)
