"""Forget rows whose score is below zero: they belong to the retain set more than to the forget set.

"keep" leaves them their weight; "drop" takes them out (weight 0); "retain" takes them out and trains on them as on
retain rows, with the weight of an average one. The others are scaled so that the group's mean stays 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rapidun.errors import ConfigError
from rapidun.settings.kinds import Negative
from rapidun.weighting.schemes import SCHEMES, Weights


def handle_negatives(weights: Weights, scheme: str, negative: Negative) -> Weights:
    """The weights after the rule.

    Args:
        weights: Of the scheme.
        scheme: Its name: only some have scores whose zero means something.
        negative: "keep", "drop" or "retain".

    Raises:
        ConfigError: If the scheme's scores have no sign, or no forget row would be left.
    """
    if negative == "keep":
        return weights
    if not SCHEMES[scheme].signed:
        signed = ", ".join(name for name, each in SCHEMES.items() if each.signed)
        raise ConfigError(f"weights.negative={negative}: the scores of {scheme!r} have no zero. Use one of {signed}.")
    out = weights.forget_scores < 0
    if out.all():
        raise ConfigError(
            f"weights.negative={negative}: every forget row scores below zero, so none would be left. The forget and "
            "the retain set cannot be told apart by this scheme; keep the rows, or look at the sets."
        )
    kept = np.where(out, 0.0, weights.forget)
    return replace(weights, forget=kept / kept.mean(), moved=out if negative == "retain" else np.zeros_like(out))
