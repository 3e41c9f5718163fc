"""Several rankings to one: views of a row fused by evidence or by ranks.

*Evidence* (ours): each view's scores for a query in units of the pool's own spread, ``(score - median) / (median -
15.9th percentile)``, averaged over views. Most of a pool has nothing to do with a query, so the lower half shows how
such rows scatter; a view in which some rows stand far above it decides, and one that sees nothing adds noise of order
1. *Reciprocal ranks* (Cormack, Clarke and Buettcher, SIGIR 2009, eq. 1): ``sum_v w_v / (constant + rank_v(row))``,
ranks from 1. Neither needs a common scale, which gradients, hidden states and BM25 do not have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rapidun.attribution.similarity import Array
from rapidun.errors import ConfigError, InputError

RRF_CONSTANT = 60.0
ONE_SIGMA = 15.865525393145708  # percentile of a normal distribution one standard deviation below its middle


def evidence(scores: npt.NDArray[np.generic], sample: npt.NDArray[np.generic] | None = None) -> npt.NDArray[np.float64]:
    """Scores of each query in units of the pool's lower spread above its middle, (queries, rows) float64.

    Where the lower half is flat the standard deviation is the unit; where all scores are the same, all are 0.

    Args:
        scores: (queries, rows).
        sample: Scores of the same queries for rows that stand for the whole pool, (queries, any); default ``scores``.

    Raises:
        InputError: If a score is not finite.
    """
    values = checked_scores(scores, "the scores")
    pool = values if sample is None else checked_scores(sample, "the sample")
    low, middle = np.percentile(pool, [ONE_SIGMA, 50.0], axis=1, keepdims=True)
    spread = middle - low
    usual = np.median(np.abs(pool), axis=1, keepdims=True)  # not the largest: one far row would call all others flat
    flat = ~(spread > 1e-9 * usual)
    spread = np.where(flat, pool.std(axis=1, keepdims=True), spread)
    found: npt.NDArray[np.float64] = np.divide(
        values - middle, spread, out=np.zeros_like(values), where=np.broadcast_to(spread > 0, values.shape)
    )
    return found


def evidence_fusion(
    scores: Sequence[npt.NDArray[np.generic]],
    *,
    weights: Sequence[float] | None = None,
    samples: Sequence[npt.NDArray[np.generic]] | None = None,
) -> Array:
    """Weighted mean over views of their `evidence`, (queries, rows) float32; higher is better.

    Args:
        scores: One (queries, rows) matrix a view, each with its own scale.
        weights: One for each view, not negative; all 1 by default.
        samples: For each view, scores of rows that stand for the whole pool, where ``scores`` are of chosen rows.

    Raises:
        ConfigError: If the weights do not fit.
        InputError: If there is no view, the shapes differ, or a score is not finite.
    """
    views = _same_shape(scores)
    shares = _weights(weights, len(views))
    parts = [evidence(view, None if samples is None else samples[number]) for number, view in enumerate(views)]
    fused = sum(share * part for share, part in zip(shares, parts, strict=True)) / sum(shares)
    return np.asarray(fused, dtype=np.float32)


def reciprocal_rank_fusion(
    scores: Sequence[npt.NDArray[np.generic]],
    *,
    constant: float = RRF_CONSTANT,
    weights: Sequence[float] | None = None,
) -> Array:
    """Fused scores, (queries, rows) float32; higher is better.

    Equal scores share the mean of their ranks, so the result does not depend on the order of the rows.

    Args:
        scores: One (queries, rows) matrix a view, each with its own scale.
        constant: How little the first places count more than the next; 60 in the paper.
        weights: One for each view, not negative; all 1 by default.

    Raises:
        ConfigError: If ``constant`` is negative, or the weights do not fit.
        InputError: If there is no view, the shapes differ, or a score is not finite.
    """
    views = _same_shape(scores)
    shares = _weights(weights, len(views))
    if not constant >= 0:
        raise ConfigError(f"constant={constant}: must not be negative.")
    fused = sum(share / (constant + ranks(view)) for share, view in zip(shares, views, strict=True))
    return np.asarray(fused, dtype=np.float32)


def ranks(scores: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Rank of each row for each query, 1 = highest, ties at their mean rank; (queries, rows) float64."""
    from scipy.stats import rankdata

    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        return values
    found: npt.NDArray[np.float64] = rankdata(-values, method="average", axis=1)
    return found


def _same_shape(scores: Sequence[npt.NDArray[np.generic]]) -> list[npt.NDArray[np.float64]]:
    views = [checked_scores(view, f"view {number}") for number, view in enumerate(scores)]
    if not views:
        raise InputError("Nothing to fuse: give at least one matrix of scores.")
    if len({view.shape for view in views}) > 1:
        raise InputError(f"Views of shapes {[view.shape for view in views]} cannot be fused: they score other rows.")
    return views


def _weights(weights: Sequence[float] | None, views: int) -> Sequence[float]:
    if weights is None:
        return [1.0] * views
    if len(weights) != views or not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise ConfigError(f"weights={list(weights)} for {views} views: give one number of at least 0 for each.")
    if not any(weights):
        raise ConfigError("weights: all are 0, so no view counts.")
    return weights


def checked_scores(scores: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.float64]:
    """The scores as (queries, rows) float64. Raises InputError, naming them, if they are not that or not finite."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"{name}: expected scores of shape (queries, rows), got {values.shape}.")
    if not np.isfinite(values).all():
        query, row = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"{name}: the score of row {row} for query {query} is {values[query, row]}.")
    return values
