"""How well scores find the rows that are known to matter: precision at k, ROC area, average precision.

Each measure is taken for every query and averaged; the interval is a 95% percentile bootstrap over queries. It says how
other queries to the same model would do, not how another model would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from rapidun.errors import ConfigError, InputError
from rapidun.stats import Interval, bootstrap

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RetrievalQuality:
    """Measures of a ranking, averaged over ``queries`` queries; ``relevant`` of ``documents`` should come first."""

    precision_at_k: Interval
    auroc: Interval
    average_precision: Interval
    k: int
    queries: int
    documents: int
    relevant: int


def retrieval_quality(
    scores: npt.NDArray[np.generic], relevant: npt.NDArray[np.bool_], k: int, *, seed: int = 0
) -> RetrievalQuality:
    """Precision at k, area under the ROC curve, and average precision of ``scores``.

    Equal scores at the k-th place count by the share of relevant documents among them, so the order of the
    documents does not matter. ``k`` beyond the number of documents means all of them.

    Args:
        scores: (queries, documents), higher is better.
        relevant: (documents,) bool.
        k: Cut-off of the precision.
        seed: Of the bootstrap.

    Raises:
        ConfigError: If ``k`` is below 1.
        InputError: If the shapes do not match, a score is not finite, there is no query, or all or none of the
            documents are relevant.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    _check(values, truth, k)
    precision = np.array([_precision_at(row, truth, k) for row in values])
    auroc = np.array([roc_auc_score(truth, row) for row in values])
    average = np.array([average_precision_score(truth, row) for row in values])
    return RetrievalQuality(
        precision_at_k=bootstrap(np.mean, precision, unit="queries", seed=seed),
        auroc=bootstrap(np.mean, auroc, unit="queries", seed=seed),
        average_precision=bootstrap(np.mean, average, unit="queries", seed=seed),
        k=k,
        queries=len(values),
        documents=len(truth),
        relevant=int(truth.sum()),
    )


def random_scores(queries: int, documents: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Standard normal scores, (queries, documents) float32: what no scorer may be worse than."""
    return np.random.default_rng(seed).standard_normal((queries, documents), dtype=np.float32)


def _check(scores: _Floats, relevant: npt.NDArray[np.bool_], k: int) -> None:
    if k < 1:
        raise ConfigError(f"k={k}: precision needs at least one row.")
    if scores.ndim != 2 or relevant.ndim != 1 or scores.shape[1] != len(relevant) or not len(scores):
        raise InputError(
            f"scores {scores.shape} and relevant {relevant.shape} do not fit: "
            "expected (queries, documents), at least one query, and (documents,)."
        )
    if not np.isfinite(scores).all():
        raise InputError(f"The scores of query {int(np.argmin(np.isfinite(scores).all(axis=1)))} are not finite.")
    if relevant.all() or not relevant.any():
        raise InputError(
            f"{int(relevant.sum())} of {len(relevant)} documents are relevant: a ranking can only be measured "
            "with some relevant and some irrelevant ones."
        )


def _precision_at(scores: _Floats, relevant: npt.NDArray[np.bool_], k: int) -> float:
    """Expected share of relevant documents among the k highest, ties broken at random."""
    k = min(k, len(scores))
    bar = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, level = scores > bar, scores == bar
    from_ties = (k - above.sum()) * relevant[level].mean()
    return float((relevant[above].sum() + from_ties) / k)
