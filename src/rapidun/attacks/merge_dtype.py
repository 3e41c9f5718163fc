"""Merged in another precision: the adapter goes into weights that cannot hold all of it.

What an adapter takes away may be smaller than what half precision can say, and then it is back in the merged model. The
base model is put into the precision first, and the adapter merged into it there.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from rapidun.attacks.gate import within_limit
from rapidun.attacks.registry import register_attack
from rapidun.attacks.target import Target
from rapidun.attacks.trial import Outcome, Trial
from rapidun.models import is_adapted, merge_adapter
from rapidun.models.passes import Progress

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@register_attack("merge_dtype", title="merged in another precision", unit="bits", efforts=(16, 32), bar=within_limit)
def merge_dtype(target: Target, efforts: Sequence[float]) -> list[Trial]:
    """One trial for each precision; that of the model itself too, since merging alone rounds."""
    return [
        Trial("", torch.finfo(dtype).bits, name, target.material.measured, partial(_measure, target, dtype))
        for name, dtype in DTYPES.items()
        if torch.finfo(dtype).bits in efforts
    ]


def _measure(target: Target, dtype: torch.dtype, said: Progress | None) -> list[Outcome]:
    model = copy.deepcopy(target.loaded.model).to(dtype)
    merged = merge_adapter(model) if is_adapted(model) else model
    return target.measure(replace(target.loaded, model=merged, dtype=dtype), said)
