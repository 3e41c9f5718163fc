"""The linear datamodelling score: do influences add up to what retraining without some rows really does?

For a random subset S of the training rows, an estimator predicts ``g(S) = sum over s in S of I(t, s)``; retraining on
S gives the query's true loss. The LDS is the Spearman correlation over subsets of ``g`` with minus the loss, averaged
over queries (Ilyas et al., arXiv 2202.00622; Park et al., TRAK, arXiv 2303.14186, definition 2.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError
from rapidun.stats import percentile_ends

_Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
_MIN_SUBSETS = 3


@dataclass(frozen=True, eq=False)
class LDS:
    """A mean Spearman correlation and its 95% interval.

    Args:
        value: Mean over queries.
        low: Lower end of the bootstrap over subsets and queries together.
        high: Upper end.
        per_query: (queries,) float64.
        subsets: Number of subsets.
    """

    value: float
    low: float
    high: float
    per_query: _Floats
    subsets: int


def lds(
    predicted: npt.NDArray[np.generic],
    subsets: npt.NDArray[np.bool_],
    losses: npt.NDArray[np.generic],
    *,
    seed: int = 0,
) -> LDS:
    """The score of one estimator.

    A query whose predictions or losses are the same for every subset has correlation 0.

    Args:
        predicted: (queries, rows) influences; positive = the row lowers the query's loss.
        subsets: (m, rows) bool, True where the row was trained on.
        losses: (m, queries), the true losses after retraining on each subset.
        seed: Of the bootstrap.

    Raises:
        InputError: If the shapes do not fit, a value is not finite, or there are fewer than three subsets.
    """
    sums, truth = _prepared(predicted, subsets, losses)
    subset_counts, query_counts = _resamples(len(sums), sums.shape[1], seed)
    per_query = _spearman(sums, truth, np.ones((1, len(sums))))[0]
    means = (query_counts * _spearman(sums, truth, subset_counts)).sum(axis=1) / len(per_query)
    low, high = percentile_ends(means)
    return LDS(float(per_query.mean()), float(low), float(high), per_query, len(sums))


@dataclass(frozen=True)
class LDSDifference:
    """How much higher one estimator's LDS is than another's, with a paired 95% interval."""

    value: float
    low: float
    high: float


def lds_difference(
    first: npt.NDArray[np.generic],
    second: npt.NDArray[np.generic],
    subsets: npt.NDArray[np.bool_],
    losses: npt.NDArray[np.generic],
    *,
    seed: int = 0,
) -> LDSDifference:
    """LDS of ``first`` minus that of ``second``; each resample draws the same subsets and queries for both.

    Raises:
        InputError: As `lds`.
    """
    a, truth = _prepared(first, subsets, losses)
    b, _ = _prepared(second, subsets, losses)
    subset_counts, query_counts = _resamples(len(a), a.shape[1], seed)
    once = np.ones((1, len(a)))
    value = float((_spearman(a, truth, once) - _spearman(b, truth, once)).mean())
    apart = _spearman(a, truth, subset_counts) - _spearman(b, truth, subset_counts)
    low, high = percentile_ends((query_counts * apart).sum(axis=1) / a.shape[1])
    return LDSDifference(value, float(low), float(high))


def _prepared(
    predicted: npt.NDArray[np.generic], subsets: npt.NDArray[np.bool_], losses: npt.NDArray[np.generic]
) -> tuple[_Floats, _Floats]:
    """Predicted and true fall of each query's loss, both (m, queries)."""
    influence, chosen, truth = (np.asarray(values, dtype=np.float64) for values in (predicted, subsets, losses))
    fits = influence.ndim == chosen.ndim == truth.ndim == 2
    if not fits or influence.shape[1] != chosen.shape[1] or truth.shape != (len(chosen), len(influence)):
        raise InputError(
            f"predicted {influence.shape}, subsets {chosen.shape} and losses {truth.shape} do not fit: "
            "expected (queries, rows), (m, rows) and (m, queries)."
        )
    if len(chosen) < _MIN_SUBSETS or not len(influence):
        raise InputError(f"{len(chosen)} subsets, {len(influence)} queries: LDS needs 3 subsets and 1 query or more.")
    for name, values in (("predicted", influence), ("losses", truth)):
        if not np.isfinite(values).all():
            raise InputError(
                f"{name}: the value at {tuple(np.argwhere(~np.isfinite(values))[0].tolist())} is not finite."
            )
    return chosen @ influence.T, -truth


def _spearman(left: _Floats, right: _Floats, counts: _Floats) -> _Floats:
    """Rank correlation of each column for each resample, (resamples, queries); 0 where a column is constant.

    ``counts`` (resamples, m) says how often each subset was drawn: a resample is its subsets with these weights, and
    ``counts @ below`` is every subset's rank in it, so nothing is sorted again.
    """
    found = np.zeros((len(counts), left.shape[1]))
    for query, (x, y) in enumerate(zip(left.T, right.T, strict=True)):
        a, b = (_centred_ranks(values, counts) for values in (x, y))
        scale = np.sqrt((counts * a**2).sum(axis=1) * (counts * b**2).sum(axis=1))
        found[:, query] = (counts * a * b).sum(axis=1) / np.where(scale > 0, scale, 1.0)
    return found


def _centred_ranks(values: _Floats, counts: _Floats) -> _Floats:
    """(resamples, m): mean ranks less their own mean over the resample."""
    below = (values[None, :] < values[:, None]) + 0.5 * (values[None, :] == values[:, None])
    ranks = counts @ below.T
    centred: _Floats = ranks - (counts * ranks).sum(axis=1, keepdims=True) / counts.sum(axis=1, keepdims=True)
    return centred


def _resamples(subsets: int, queries: int, seed: int) -> tuple[_Floats, _Floats]:
    """How often each subset, and each query, is drawn: (resamples, subsets) and (resamples, queries)."""
    generator = np.random.default_rng(seed)
    even = [np.full(number, 1 / number) for number in (subsets, queries)]
    drawn = [generator.multinomial(len(share), share, RESAMPLES).astype(np.float64) for share in even]
    return drawn[0], drawn[1]
