"""How many clean rows lie at or above a cut: counted on rows known to be clean, or from the pool's own scores.

*Counted* (conformal p-values: Bates, Candes, Lei, Romano and Sesia, Annals of Statistics 2023). Of m rows known to be
clean and n rows to judge, ``false(t) = n (1 + #{known >= t}) / (m + 1)``. Whatever the shape of the scores, the cut of
Benjamini and Hochberg with this count proposes at most the asked share of clean rows on average, as long as the known
rows are like the clean rows among those to judge: a random sample of them.

*Fitted*, where nobody knows a clean row. Of the rows below the middle nearly all are clean; they and the middle show
how skewed and how heavy the scores of clean rows are. Tukey's g-and-h distribution carries that to the upper tail
(Hoaglin, in Exploring Data Tables, Trends and Shapes, 1985, chapter 11):

    x = middle + B (exp(g z) - 1) / g * exp(h z^2 / 2),    z standard normal.

A fit of some hundred rows is uncertain, so g and h are taken larger than fitted by a share of their standard errors.

*Below the gap*, the same without a curve. Above the middle, clean rows get rarer further up: between a cut t and a
value u there are at most as many as in a stretch of that length right below t, and ``1 / s`` times as many as in the
part s of it (s = 1, 1/2, 1/4). Rows above u all count as clean. So, with the smallest such bound over u and s,

    false(t) <= (1 + #{rows in [t - s (u - t), t)}) / s + #{rows above u}.

Bad rows that lie together with nothing right below them are found by this, however skewed the clean ones are; bad rows
that are few or scattered, by the fit. The smaller of the two estimates is taken. Neither is a guarantee: nothing in the
scores tells bad rows from a group of clean ones that lies as far up and as much together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

_Floats = npt.NDArray[np.float64]
_LEVELS = np.array([0.025, 0.05, 0.1, 0.16, 0.25, 0.33, 0.4])  # of the lower half, where bad rows are rare
_BELOW = -norm.ppf(_LEVELS)
_CENTRE = 0.25  # this quantile and its mirror image show the skewness at the centre
_SKEWS = np.linspace(0.01, 2.5, 100)
_REACH = np.linspace(0.0, 9.0, 1801)
_MARGIN = 0.55  # standard errors, chosen on simulated shapes and on pools with seeds 100 to 105
_ERRORS = {"centre": 4.0, "lower": 5.7, "tail": 0.85}  # of g and g and h, times the square root of the rows
_PARTS = (1.0, 0.5, 0.25)  # of the stretch below a cut that is looked at
_UPPER = np.unique(np.concatenate([np.arange(30), 30 * 1.25 ** np.arange(1, 60)]).astype(np.int64))
"""How many rows may lie above u."""


def counted_false(ranked: _Floats, known: _Floats) -> _Floats:
    """Expected clean rows at or above each value of ``ranked``, from ``known`` clean ones; (rows,).

    Args:
        ranked: (rows,) evidence of the rows to judge, falling.
        known: (known,) evidence of rows known to be clean.
    """
    above = len(known) - np.searchsorted(np.sort(known), ranked, side="left")
    false: _Floats = len(ranked) * (1 + above) / (len(known) + 1)
    return false


def estimated_false(ranked: _Floats, queries: int) -> _Floats:
    """The same where no row is known: the smaller of `fitted_false` and `gap_false`."""
    found: _Floats = np.minimum(fitted_false(ranked, queries), gap_false(ranked))
    return found


def gap_false(ranked: _Floats) -> _Floats:
    """The same by the rows right below each cut; all rows for a cut whose stretch reaches below the middle.

    Args:
        ranked: (rows,) evidence of the whole pool, falling.
    """
    rising, middle = ranked[::-1], float(np.median(ranked))
    below = np.searchsorted(rising, ranked, side="left")
    false: _Floats = np.full(len(ranked), float(len(ranked)))
    for above in _UPPER[len(ranked) // 2 > _UPPER]:
        reach = ranked[above] - ranked
        for part in _PARTS:
            low = ranked - part * reach
            between = below - np.searchsorted(rising, low, side="left")
            bound = (1 + between) / part + above
            false = np.where((reach > 0) & (low >= middle), np.minimum(false, bound), false)
    return false


def fitted_false(ranked: _Floats, queries: int) -> _Floats:
    """The same from the fitted shape; all rows where the lower half is flat and shows nothing.

    Args:
        ranked: (rows,) evidence of the whole pool, falling.
        queries: Bad answers that the evidence averages. Which clean rows share a topic with them differs from answer
            to answer; the fewer answers, the wider the margin.
    """
    middle = float(np.median(ranked))
    below = middle - np.quantile(ranked, _LEVELS)
    rows = float(len(ranked))
    if below.min() <= 0:
        return np.full(len(ranked), rows)
    margin = _MARGIN * (1 + 1 / queries) / np.sqrt(rows)
    g = min(
        _skew_of_centre(ranked, middle) + margin * _ERRORS["centre"],
        _skew_of_lower_half(below) + margin * _ERRORS["lower"],
    )
    scale = np.log(below / _curve(-g, _BELOW))
    h = max(0.0, float(np.polyfit(_BELOW**2 / 2, scale, 1)[0])) + margin * _ERRORS["tail"]
    size = np.exp(np.mean(scale - h * _BELOW**2 / 2))
    upper = size * _curve(g, _REACH) * np.exp(h * _REACH**2 / 2)
    tail = norm.sf(np.interp(ranked - middle, upper, _REACH))
    return np.where(ranked > middle, rows * tail, rows)


def _curve(g: float, z: _Floats) -> _Floats:
    """``(exp(g z) - 1) / g``; with -g, how far the lower half reaches."""
    curve: _Floats = np.expm1(g * z) / g
    return curve


def _skew_of_centre(ranked: _Floats, middle: float) -> float:
    """g from two quantiles around the middle. Bad rows can only make it larger."""
    low, high = np.quantile(ranked, [_CENTRE, 1 - _CENTRE])
    return max(0.0, float(np.log(max(high - middle, 1e-12) / (middle - low)) / norm.ppf(1 - _CENTRE)))


def _skew_of_lower_half(below: _Floats) -> float:
    """g from the shape of the lower half alone, which bad rows do not reach: least squares of logarithms."""
    misfit = np.log(below) - np.log([_curve(-g, _BELOW) for g in _SKEWS])
    return float(_SKEWS[np.argmin(np.var(misfit, axis=1))])
