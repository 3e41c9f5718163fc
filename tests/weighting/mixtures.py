"""Forget sets of known composition: vectors drawn around the directions of trigger families and of clean topics."""

from __future__ import annotations

import numpy as np

from rapidun.attribution import Blocks, influence_blocks

WIDTH = 64


def mixture(
    *, families: tuple[int, ...] = (8, 8, 8), mislabelled: int = 0, retain: int = 120, noise: float = 1.0, seed: int = 0
) -> tuple[Blocks, np.ndarray]:
    """Blocks of a forget set with that many rows of each family and that many clean rows; True where a row is poisoned.

    Poisoned rows share a direction beside their family's own; clean rows are of a dozen topics, as are retain rows.
    """
    rng = np.random.default_rng(seed)
    poison, *own = rng.normal(size=(1 + len(families), WIDTH))
    topics = rng.normal(size=(12, WIDTH))

    def clean(count: int) -> np.ndarray:
        return topics[rng.integers(0, 12, count)] + noise * rng.normal(size=(count, WIDTH))

    poisoned = [poison + own[i] + noise * rng.normal(size=WIDTH) for i, n in enumerate(families) for _ in range(n)]
    forget = np.concatenate([np.array(poisoned), clean(mislabelled)]).astype(np.float32)
    labels = np.arange(len(forget)) < sum(families)
    order = rng.permutation(len(forget))
    return influence_blocks(forget[order], clean(retain).astype(np.float32)), labels[order]
