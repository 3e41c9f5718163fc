"""LiSSA: the inverse curvature as a Neumann series over small batches (Agarwal et al., arXiv 1602.03943).

    h_0 = v,   h_{j+1} = v + (1 - (G_j + lambda)/scale) h_j,   (G + lambda)^-1 v ~ h_J / scale

with ``G_j`` the Gauss-Newton matrix of a batch drawn anew at each step. Cheaper a step than conjugate gradients and
noisier; it converges only if ``scale`` is above the largest eigenvalue, and slowly where eigenvalues are small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from curvature import damping_of, exact_gradients, times_gradients
from gauss_newton import GaussNewton
from torch import nn

from rapidun.attribution.similarity import Array
from rapidun.data.batches import Example
from rapidun.errors import ConfigError, ModelError

_HEADROOM = 2.0  # a batch's largest eigenvalue can exceed that of all rows


def lissa(
    model: nn.Module,
    queries: Sequence[Example],
    train: Sequence[Example],
    pad_token_id: int,
    *,
    targets: str | Sequence[str] = "lora",
    damping: float = 1.0,
    depth: int = 200,
    batch_rows: int = 16,
    repeat: int = 1,
    scale: float | None = None,
    seed: int = 0,
    max_tokens: int = 2048,
) -> Array:
    """``grad L(t)^T (G + damping * mean eigenvalue)^-1 grad L(s)``, (queries, train) float32.

    Args:
        model: As for `rapidun.attribution.gauss_newton.GaussNewton`.
        queries: Tokenised rows t.
        train: Tokenised rows s.
        pad_token_id: Any token id.
        targets: Which weights.
        damping: In units of the mean eigenvalue of ``G``.
        depth: Terms of the series.
        batch_rows: Rows drawn, without replacement, for each term.
        repeat: Series to average.
        scale: What the curvature is divided by; by default twice its largest eigenvalue plus the damping.
        seed: Of the batches.
        max_tokens: Padded size of a batch, in tokens.

    Raises:
        ConfigError: If a number is not positive.
        InputError: If there are no training rows.
        ModelError: If the series diverges, or the targets match nothing or are in half precision.
    """
    for name, value in {"depth": depth, "batch_rows": batch_rows, "repeat": repeat}.items():
        if value < 1:
            raise ConfigError(f"{name}={value}: must be at least 1.")
    if scale is not None and not scale > 0:
        raise ConfigError(f"scale={scale}: must be positive.")
    curvature = GaussNewton(model, train, pad_token_id, targets=targets, max_tokens=max_tokens)
    added = damping_of(curvature, damping)
    divisor = scale if scale is not None else _HEADROOM * curvature.largest_eigenvalue() + added
    asked = exact_gradients(model, queries, pad_token_id, targets, max_tokens)
    right = torch.from_numpy(asked).to(next(model.parameters()).device)
    order = np.random.default_rng(seed)
    found = torch.zeros_like(right)
    for _ in range(repeat):
        found += _series(curvature, right, added, divisor, depth, batch_rows, order) / repeat
    return times_gradients(model, found, train, pad_token_id, targets, max_tokens)


def _series(
    curvature: GaussNewton,
    right: torch.Tensor,
    added: float,
    scale: float,
    depth: int,
    batch_rows: int,
    order: np.random.Generator,
) -> torch.Tensor:
    """One Neumann series; no term of a converging one is longer than ``depth + 1`` times its start."""
    sums = right.clone()
    limit = (depth + 1) * 10 * right.norm(dim=1)
    for _ in range(depth):
        rows = order.choice(curvature.rows, min(batch_rows, curvature.rows), replace=False).tolist()
        sums = right + sums - (curvature.product(sums, rows) + added * sums) / scale
        if not bool((sums.norm(dim=1) <= limit).all()):
            raise ModelError(
                f"LiSSA diverges with scale {scale:.3g}: a batch's curvature is larger. Raise scale or batch_rows."
            )
    return sums / scale
