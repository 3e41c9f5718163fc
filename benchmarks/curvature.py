"""Influence functions with real curvature, for small models: the slow reference for the fast estimates.

    I(t, s) = grad L(t)^T (G + lambda)^-1 grad L(s)

(Koh and Liang, arXiv 1703.04730, with the Gauss-Newton matrix for the Hessian, as Grosse et al., arXiv 2308.03296).
The inverse is applied to the queries by conjugate gradients: one product with ``G`` a step for all queries at once.
Positive = training on s lowers the loss of t, as everywhere here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from gauss_newton import GaussNewton
from torch import nn

from rapidun.attribution.similarity import Array
from rapidun.data.batches import Example
from rapidun.errors import ConfigError, ModelError
from rapidun.gradients import Exact, GradientCollector, collect_vectors

Product = Callable[[torch.Tensor], torch.Tensor]
_ROWS_AT_ONCE = 64


class Solution(NamedTuple):
    """Approximate solutions, each one's relative residual, and how many steps were made."""

    vectors: torch.Tensor
    residuals: torch.Tensor
    iterations: int


def conjugate_gradients(product: Product, right: torch.Tensor, *, iterations: int, tolerance: float) -> Solution:
    """Solve ``A x = b`` for several b at once, A symmetric and positive definite (Hestenes and Stiefel, 1952).

    Args:
        product: (n, dimension) to ``A`` times each row.
        right: (n, dimension), the b's.
        iterations: Most steps to make.
        tolerance: Stop when every ``|A x - b| <= tolerance |b|``.

    Raises:
        ConfigError: If ``iterations`` is below 1 or ``tolerance`` is not positive.
        ModelError: If ``A`` turns out not to be positive definite.
    """
    if iterations < 1 or not tolerance > 0:
        raise ConfigError(f"iterations={iterations}, tolerance={tolerance}: both must be positive.")
    x, residual = torch.zeros_like(right), right.clone()
    direction, squares = residual.clone(), _dot(residual, residual)
    goal = squares * tolerance**2
    step = 0
    while step < iterations and bool((squares > goal).any()):
        open_ = squares > goal
        image = product(direction)
        bend = _dot(direction, image)
        if bool((bend[open_] <= 0).any()):
            raise ModelError("The damped curvature is not positive definite. Raise the damping, or use float64.")
        length = torch.where(open_, squares / bend, 0.0)
        x += length[:, None] * direction
        residual -= length[:, None] * image
        new = _dot(residual, residual)
        direction = residual + torch.where(open_, new / squares, 0.0)[:, None] * direction
        squares = torch.where(open_, new, squares)
        step += 1
    norms = right.norm(dim=1)
    return Solution(x, residual.norm(dim=1) / torch.where(norms > 0, norms, 1.0), step)


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.einsum("nd,nd->n", left, right)


def gauss_newton_influence(
    model: nn.Module,
    queries: Sequence[Example],
    train: Sequence[Example],
    pad_token_id: int,
    *,
    targets: str | Sequence[str] = "lora",
    damping: float = 1.0,
    iterations: int = 50,
    tolerance: float = 1e-3,
    max_tokens: int = 2048,
    curvature: Sequence[Example] | None = None,
) -> Array:
    """``grad L(t)^T (G + damping * mean eigenvalue)^-1 grad L(s)``, (queries, train) float32.

    Stopping before the tolerance is met acts like more damping; it is not an error.

    Args:
        model: As for `GaussNewton`.
        queries: Tokenised rows t.
        train: Tokenised rows s; ``G`` is the mean over them.
        pad_token_id: Any token id.
        targets: Which weights.
        damping: In units of the mean eigenvalue of ``G``.
        iterations: Most steps of conjugate gradients.
        tolerance: Relative residual at which to stop.
        max_tokens: Padded size of a batch, in tokens.
        curvature: Rows to take ``G`` over, where ``train`` is more than it needs; ``train`` by default.

    Raises:
        ConfigError: If a number is not positive.
        InputError: If there are no training rows.
        ModelError: If the targets match nothing or are in half precision.
    """
    rows = train if curvature is None else curvature
    matrix = GaussNewton(model, rows, pad_token_id, targets=targets, max_tokens=max_tokens)
    added = damping_of(matrix, damping)
    asked = exact_gradients(model, queries, pad_token_id, targets, max_tokens)
    solved = conjugate_gradients(
        lambda vectors: matrix.product(vectors) + added * vectors,
        torch.from_numpy(asked).to(next(model.parameters()).device),
        iterations=iterations,
        tolerance=tolerance,
    )
    return times_gradients(model, solved.vectors, train, pad_token_id, targets, max_tokens)


def damping_of(curvature: GaussNewton, damping: float) -> float:
    """``damping`` times the mean eigenvalue.

    Raises:
        ConfigError: If it is not positive.
        ModelError: If the curvature is 0 everywhere.
    """
    if not damping > 0:
        raise ConfigError(f"damping={damping}: must be positive; 1 is the mean eigenvalue of the curvature.")
    mean = curvature.mean_eigenvalue()
    if not mean > 0:
        raise ModelError("The curvature is 0: the model is certain of every answer token, or ignores the targets.")
    return damping * mean


def exact_gradients(
    model: nn.Module, examples: Sequence[Example], pad_token_id: int, targets: str | Sequence[str], max_tokens: int
) -> Array:
    """``grad L`` of each row, (n, dimension) float32, unnormalised."""
    collector = GradientCollector(model, targets=targets, normalize="none")
    return collect_vectors(collector, Exact(), examples, pad_token_id, max_tokens=max_tokens)


def times_gradients(
    model: nn.Module,
    vectors: torch.Tensor,
    train: Sequence[Example],
    pad_token_id: int,
    targets: str | Sequence[str],
    max_tokens: int,
) -> Array:
    """``vectors . grad L(s)``, (n, train) float32; the training gradients exist a few rows at a time."""
    left = vectors.float().cpu().numpy()
    scores = np.zeros((len(left), len(train)), dtype=np.float32)
    for start in range(0, len(train), _ROWS_AT_ONCE):
        rows = train[start : start + _ROWS_AT_ONCE]
        scores[:, start : start + len(rows)] = left @ exact_gradients(model, rows, pad_token_id, targets, max_tokens).T
    return scores
