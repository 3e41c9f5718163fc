"""From symptom to forget set: which rows of the pool to forget, and which to keep beside them.

People have a few bad answers and no list of bad rows. Each view (hidden states, BM25, gradients) scores every row for
every bad answer. The cut comes from the scores themselves, at a stated false-discovery rate:

1. *Evidence* of a row: each query's scores in units of the pool's lower spread, clipped so that one lucky match does
   not decide, averaged over queries, standardised again, averaged over views.
2. *Null*: bad rows are found at the upper end only, so what lies below the middle shows how clean rows scatter
   (Efron's empirical null, JASA 2004). Clean rows above a cut t are counted as the mirror image of the lower half or
   as a normal tail, whichever is more:

       false(t) = max(#{e <= 2 middle - t}, clean * P(N > (t - middle) / spread))

   with the spread of the lower half, or of the upper half once the rows above the cut are taken away, whichever is
   more: similarities lean to the right.
3. *Cut*: among the t with ``false(t) / #{e >= t} <= fdr`` (Benjamini and Hochberg, 1995; the mirrored count is Barber
   and Candes', Annals of Statistics 2015), the one with the largest ``#{e >= t} - 2 false(t)``: the last rows taken are
   still more likely bad than clean (local rate 1/2), so a rate that could be spent on clean rows is not.

A row's q-value is the least rate at which a cut could take it. Retain rows are those that a careless cut would have
taken: the next in evidence on the clean side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from rapidun.attribution.fusion import ONE_SIGMA, evidence
from rapidun.errors import ConfigError, InputError

_Floats = npt.NDArray[np.float64]
_CLIP = 6.0
_UPPER = (100 - ONE_SIGMA, 95.0)
_REFITS = 2
_MIN_ROWS = 20


@dataclass(frozen=True, eq=False)
class Proposal:
    """Rows to forget and rows to retain, by position in the pool.

    Args:
        forget: Positions, most evident first; empty where no cut reaches the rate.
        retain: Positions, nearest to the forget rows first.
        scores: (rows,) float64 evidence, in standard deviations of clean rows.
        q_values: (rows,) float64 in [0, 1].
        reasons: (rows proposed,) position to a sentence, for forget and retain rows.
        fdr: The rate that was asked for.
        expected_false: Estimated number of clean rows among ``forget``.
        threshold: Evidence of the last forget row; infinity where there is none.
    """

    forget: list[int]
    retain: list[int]
    scores: _Floats
    q_values: _Floats
    reasons: dict[int, str]
    fdr: float
    expected_false: float
    threshold: float


def propose(
    views: Mapping[str, npt.NDArray[np.generic]],
    *,
    weights: Mapping[str, float] | None = None,
    fdr: float = 0.1,
    retain: int | None = None,
    clean_above: float = 0.5,
) -> Proposal:
    """A proposal from the scores of every view.

    Args:
        views: Name to (queries, rows) scores of the same bad answers and pool; higher = more like the bad answer.
        weights: A view's share in the mean, else 1.
        fdr: Share of clean rows that the forget set may hold, in (0, 1).
        retain: Number of retain rows; by default twice the forget rows.
        clean_above: A row may be retained only if its q-value is above this.

    Raises:
        ConfigError: If a setting is out of range.
        InputError: If there are no views, the shapes do not fit, a score is not finite, or the pool is too small for
            a null (20 rows).
    """
    _check_settings(fdr, retain, clean_above)
    parts = {name: view_evidence(scores, name) for name, scores in views.items()}
    if not parts:
        raise InputError("Nothing to propose from: give the scores of at least one view.")
    if len({part.shape for part in parts.values()}) > 1:
        sizes = {name: len(part) for name, part in parts.items()}
        raise InputError(f"Views of pools of {sizes} rows: all must score the same pool.")
    shares = [(weights or {}).get(name, 1.0) for name in parts]
    scores = _standardised(np.average(list(parts.values()), axis=0, weights=shares))
    order = np.argsort(-scores, kind="stable")
    false = _clean_above(scores, fdr)
    q_values = _q_values(scores, false)
    forget = [int(row) for row in order[: _cut(scores[order], false, q_values[order], fdr)]]
    wanted = 2 * len(forget) if retain is None else retain
    beside = [int(row) for row in order if q_values[row] > max(clean_above, fdr)][:wanted]
    reasons = {row: _reason(row, parts, scores, q_values, "forget") for row in forget}
    reasons |= {row: _reason(row, parts, scores, q_values, "retain") for row in beside}
    expected = float(min(false[len(forget) - 1], len(forget))) if forget else 0.0
    return Proposal(
        forget,
        beside,
        scores,
        q_values,
        reasons,
        fdr,
        expected,
        float(scores[forget[-1]]) if forget else float("inf"),
    )


def view_evidence(scores: npt.NDArray[np.generic], name: str = "view") -> _Floats:
    """One view's evidence, (rows,) float64: mean over queries of clipped z-scores, standardised again.

    Raises:
        InputError: If the scores are not (queries, rows), not finite, or too few.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise InputError(f"{name}: expected scores of shape (queries, rows) with a query, got {values.shape}.")
    if values.shape[1] < _MIN_ROWS:
        raise InputError(f"{name}: a pool of {values.shape[1]} rows is too small to tell chance; at least {_MIN_ROWS}.")
    if not np.isfinite(values).all():
        query, row = np.argwhere(~np.isfinite(values))[0]
        raise InputError(f"{name}: the score of row {row} for query {query} is {values[query, row]}.")
    return _standardised(np.clip(evidence(values), -_CLIP, _CLIP).mean(axis=0))


def false_discovery(evidence: _Floats, fdr: float = 0.1) -> _Floats:
    """q-value of each row, (rows,) float64 in [0, 1]: the least false-discovery rate of a cut that takes it.

    Args:
        evidence: (rows,), higher = more like the bad answers.
        fdr: Rows that pass at this rate are left out when the spread of clean rows is estimated.
    """
    return _q_values(evidence, _clean_above(evidence, fdr))


def _clean_above(evidence: _Floats, fdr: float) -> _Floats:
    """Estimated clean rows at or above each row, in the order of falling evidence, (rows,)."""
    ranked = np.sort(evidence)[::-1]
    middle, spread = _lower_null(evidence)
    mirrored = np.searchsorted(ranked[::-1], 2 * middle - ranked, side="right")
    clean = min(len(evidence), 2 * int((evidence <= middle).sum()))
    widest = spread
    for _ in range(_REFITS + 1):
        tail = norm.sf((ranked - middle) / widest) if widest > 0 else np.where(ranked > middle, 0.0, 1.0)
        false: _Floats = np.maximum(mirrored, clean * tail)
        rest = evidence[_q_values(evidence, false) > fdr]
        widest = max(spread, _upper_spread(rest))
    return false


def _q_values(evidence: _Floats, false: _Floats) -> _Floats:
    order = np.argsort(-evidence, kind="stable")
    ranked = evidence[order]
    taken = np.searchsorted(-ranked, -ranked, side="right")
    rates = np.minimum(false / taken, 1.0)
    q_values = np.empty_like(rates)
    q_values[order] = np.minimum.accumulate(rates[::-1])[::-1]
    return q_values


def _cut(ranked: _Floats, false: _Floats, q_values: _Floats, fdr: float) -> int:
    """How many of the rows to take: within the rate, as long as one more is more likely bad than clean."""
    allowed = int((q_values <= fdr).sum())
    if not allowed:
        return 0
    taken = np.searchsorted(-ranked, -ranked, side="right")
    best = int(np.argmax((taken - 2 * false)[:allowed]))
    return int(taken[best])


def _lower_null(evidence: _Floats) -> tuple[float, float]:
    """Middle and spread of clean rows from two quantiles of the lower part, which bad rows do not reach."""
    low, lower = np.percentile(evidence, [ONE_SIGMA, 40.0])
    steps = norm.ppf([ONE_SIGMA / 100, 0.4])
    spread = float((lower - low) / (steps[1] - steps[0]))
    return float(low - steps[0] * spread), spread


def _upper_spread(rest: _Floats) -> float:
    """The wider of two looks at the upper half: at one standard deviation and at the tail; 0 for too few rows."""
    if len(rest) < _MIN_ROWS:
        return 0.0
    middle, *above = np.percentile(rest, [50.0, *_UPPER])
    return float(max((value - middle) / norm.ppf(level / 100) for value, level in zip(above, _UPPER, strict=True)))


def _standardised(values: _Floats) -> _Floats:
    """One ranking's `evidence`, (rows,)."""
    found: _Floats = evidence(values[None])[0]
    return found


def _reason(row: int, parts: Mapping[str, _Floats], scores: _Floats, q_values: _Floats, group: str) -> str:
    by_view = ", ".join(f"{name} {part[row]:+.1f}" for name, part in parts.items())
    rank = int((scores > scores[row]).sum()) + 1
    if group == "forget":
        return (
            f"rank {rank} of {len(scores)}, {scores[row]:+.1f} sd above clean rows ({by_view}), q = {q_values[row]:.3g}"
        )
    return (
        f"nearest clean side: rank {rank} of {len(scores)}, {scores[row]:+.1f} sd ({by_view}), q = {q_values[row]:.2g}"
    )


def _check_settings(fdr: float, retain: int | None, clean_above: float) -> None:
    if not 0 < fdr < 1:
        raise ConfigError(f"fdr={fdr}: give a share between 0 and 1, for example 0.1.")
    if not 0 <= clean_above < 1:
        raise ConfigError(f"clean_above={clean_above}: give a q-value from 0 to below 1.")
    if retain is not None and retain < 0:
        raise ConfigError(f"retain={retain}: must not be negative.")
