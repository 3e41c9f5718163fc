"""From symptom to forget set: which rows of the pool to forget, and which to keep beside them.

People have a few bad answers and no list of bad rows. Each view (hidden states, BM25, gradients) scores every row for
every bad answer. The cut comes from the scores themselves, at a stated false-discovery rate:

1. *Evidence* of a row: each query's scores in units of the pool's lower spread, averaged over queries, standardised
   again, averaged over views. One lucky match does not decide: a row's highest score counts no more than the larger
   of its second highest and 6 spreads, and every score z as ``z / (1 + |z| / 20)``.
2. *Null*: how many clean rows lie at or above a cut t, ``false(t)``, is counted on rows known to be clean, or without
   them estimated from the shape of the pool's scores; see `rapidun.attribution.null`.
3. *Cut*: the lowest t with ``false(t) / #{e >= t} <= fdr`` (Benjamini and Hochberg, JRSS B 1995).

With known clean rows that are a random sample of the clean ones, the share of clean rows among those proposed is at
most ``fdr`` on average over samples, whatever the shape of the scores; if no row is bad, something is proposed with
probability at most ``fdr``. Without them that is an estimate; ``benchmarks/propose_fdr.py`` measures where it holds.

A row's q-value is the least rate at which a cut could take it. Retain rows are those that a careless cut would have
taken: the next in evidence on the clean side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapidun.attribution.fusion import checked_scores, evidence
from rapidun.attribution.null import counted_false, estimated_false
from rapidun.errors import ConfigError, InputError

_Floats = npt.NDArray[np.float64]
_ALONE, _MOST = 6.0, 20.0  # spreads: most of a score that no other query shares; what no score reaches
_MIN_ROWS = 20


@dataclass(frozen=True, eq=False)
class Proposal:
    """Rows to forget and rows to retain, by position in the pool.

    Args:
        forget: Positions, most evident first; empty where no cut reaches the rate.
        retain: Positions, nearest to the forget rows first.
        scores: (rows,) float64 evidence, in units of the pool's lower spread.
        q_values: (rows,) float64 in [0, 1]; 1 for rows known to be clean.
        reasons: (rows proposed,) position to a sentence, for forget and retain rows.
        fdr: The rate that was asked for.
        expected_false: Estimated number of clean rows among ``forget``.
        threshold: Evidence of the last forget row; infinity where there is none.
        known_clean: Number of rows known to be clean that the rate rests on; 0 where it is an estimate.
    """

    forget: list[int]
    retain: list[int]
    scores: _Floats
    q_values: _Floats
    reasons: dict[int, str]
    fdr: float
    expected_false: float
    threshold: float
    known_clean: int


def propose(
    views: Mapping[str, npt.NDArray[np.generic]],
    *,
    clean: Sequence[int] = (),
    weights: Mapping[str, float] | None = None,
    fdr: float = 0.1,
    retain: int | None = None,
    clean_above: float = 0.5,
) -> Proposal:
    """A proposal from the scores of every view.

    Args:
        views: Name to (queries, rows) scores of the same bad answers and pool; higher = more like the bad answer.
        clean: Positions of rows known to be clean, a random sample of the clean ones; never proposed to be forgotten.
            With m of them and n others, at least ``n / (fdr (m + 1))`` rows must stand out together.
        weights: A view's share in the mean, else 1.
        fdr: Share of clean rows that the forget set may hold, in (0, 1).
        retain: Number of retain rows; by default twice the forget rows.
        clean_above: A row may be retained only if its q-value is above this.

    Raises:
        ConfigError: If a setting is out of range.
        InputError: If there are no views, the shapes do not fit, a score is not finite, a position in ``clean`` is not
            one of the pool or there twice, all rows are clean, or the pool is too small for a null (20 rows).
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
    judged = _judged(len(scores), clean)
    judged = judged[np.argsort(-scores[judged], kind="stable")]
    ranked = scores[judged]
    queries = len(next(iter(views.values())))
    false = counted_false(ranked, scores[list(clean)]) if len(clean) else estimated_false(ranked, queries)
    q_values = np.ones(len(scores))
    q_values[judged] = rates = _q_values(ranked, false)
    taken = int((rates <= fdr).sum())
    forget = [int(row) for row in judged[:taken]]
    wanted = 2 * taken if retain is None else retain
    order = np.argsort(-scores, kind="stable")
    beside = [int(row) for row in order if q_values[row] > max(clean_above, fdr)][:wanted]
    reasons = {row: _reason(row, parts, scores, q_values, "forget") for row in forget}
    reasons |= {row: _reason(row, parts, scores, q_values, "retain") for row in beside}
    return Proposal(
        forget,
        beside,
        scores,
        q_values,
        reasons,
        fdr,
        expected_false=float(false[taken - 1]) if taken else 0.0,
        threshold=float(ranked[taken - 1]) if taken else float("inf"),
        known_clean=len(clean),
    )


def view_evidence(scores: npt.NDArray[np.generic], name: str = "view") -> _Floats:
    """One view's evidence, (rows,) float64: mean over queries of bounded z-scores, standardised again.

    The bound keeps the order and the gaps of far scores; cut off, they would all lie in one place.

    Raises:
        InputError: If the scores are not (queries, rows), not finite, or too few.
    """
    values = checked_scores(scores, name)
    if not len(values):
        raise InputError(f"{name}: expected scores of shape (queries, rows) with a query, got {values.shape}.")
    if values.shape[1] < _MIN_ROWS:
        raise InputError(f"{name}: a pool of {values.shape[1]} rows is too small to tell chance; at least {_MIN_ROWS}.")
    found = evidence(values)
    if len(found) > 1:
        found = np.minimum(found, np.maximum(np.sort(found, axis=0)[-2], _ALONE))
    return _standardised((found / (1 + np.abs(found) / _MOST)).mean(axis=0))


def _judged(rows: int, clean: Sequence[int]) -> npt.NDArray[np.int64]:
    """Positions that are not known to be clean."""
    wrong = [position for position in clean if not 0 <= position < rows]
    if wrong or len(set(clean)) < len(clean):
        raise InputError(f"clean: {wrong or 'a position twice'}; give each known row once, from 0 to {rows - 1}.")
    judged = np.setdiff1d(np.arange(rows), np.asarray(clean, dtype=np.int64))
    if not len(judged):
        raise InputError(f"all {rows} rows are said to be clean, so there is nothing to propose.")
    return judged


def _q_values(ranked: _Floats, false: _Floats) -> _Floats:
    """The least rate at which a cut takes each row of the falling ``ranked``; rows of equal evidence share it."""
    taken = np.searchsorted(-ranked, -ranked, side="right")
    rates = np.minimum(false / taken, 1.0)
    q_values: _Floats = np.minimum.accumulate(rates[::-1])[::-1]
    return q_values


def _standardised(values: _Floats) -> _Floats:
    """One ranking's `evidence`, (rows,)."""
    found: _Floats = evidence(values[None])[0]
    return found


def _reason(row: int, parts: Mapping[str, _Floats], scores: _Floats, q_values: _Floats, group: str) -> str:
    by_view = ", ".join(f"{name} {part[row]:+.1f}" for name, part in parts.items())
    rank = int((scores > scores[row]).sum()) + 1
    place = f"rank {rank} of {len(scores)}, {scores[row]:+.1f} spreads above the pool's middle ({by_view})"
    if group == "forget":
        return f"{place}, q = {q_values[row]:.3g}"
    return f"nearest clean side: {place}, q = {q_values[row]:.2g}"


def _check_settings(fdr: float, retain: int | None, clean_above: float) -> None:
    if not 0 < fdr < 1:
        raise ConfigError(f"fdr={fdr}: give a share between 0 and 1, for example 0.1.")
    if not 0 <= clean_above < 1:
        raise ConfigError(f"clean_above={clean_above}: give a q-value from 0 to below 1.")
    if retain is not None and retain < 0:
        raise ConfigError(f"retain={retain}: must not be negative.")
