"""Quantised weights: what was only just pushed below the surface comes back when weights are rounded.

Plain rounding to the nearest, in groups of 32 weights of a row with one scale each (`rapidun.models.rounding`).
Linear layers are rounded, embeddings and output head are not. Zhang et al. 2024 (arXiv 2410.16454) found that 4 bits
bring most of what was unlearnt back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from rapidun.attacks.gate import within_limit
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Target, linear_weights
from rapidun.attacks.trial import Outcome, Trial
from rapidun.models.passes import Progress
from rapidun.models.rounding import nearest
from rapidun.models.targets import is_conv1d, linear_layers


@register_attack(
    "quantise", title="rounded to 8 and 4 bits", unit="bits", efforts=(8, 4), quick=(8, 4), bar=within_limit
)
def quantise(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial for each number of bits, the adapter merged first."""
    linear_weights(target.loaded.model)
    return [
        Trial("", bits, f"{bits:g} bits", target.material.measured, partial(_measure, target, int(bits)))
        for bits in efforts
    ]


def _measure(target: Target, bits: int, said: Progress | None) -> list[Outcome]:
    with rounded(target.merged.model, partial(nearest, bits=bits)):
        return target.measure(target.merged, said)


@contextmanager
def rounded(model: torch.nn.Module, rounding: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Inside, the linear layers hold rounded weights; afterwards their own."""
    weights = linear_weights(model)
    transposed = {id(layer.weight) for layer in linear_layers(model).values() if is_conv1d(layer)}
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:  # GPT-2's layers store (inputs, outputs)
                weight.copy_(rounding(weight.T).T if id(weight) in transposed else rounding(weight))
        yield
    finally:
        with torch.no_grad():
            for weight, own in zip(weights, kept, strict=True):
                weight.copy_(own)
