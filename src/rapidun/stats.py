"""Statistics of what is measured. Every interval is 95% and names its unit: what would be drawn anew in another try.

An interval tells nothing unless its units are independent. Answers of one model, queries of one fine-tuning and draws
of rows on one model are not independent tries of a *method*: there the unit is the model, the seed or the scenario.
Nothing is made up where there is nothing to see: no interval around one measurement, nor around the same one repeated,
no end of a rate outside 0 to 1, and no value in the place of a missing one. SciPy does the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError

CONFIDENCE = 0.95
RESAMPLES = 2000
RATE = (0.0, 1.0)
_EVERYWHERE = (-math.inf, math.inf)
_BATCH = 2**21  # numbers drawn at once in a bootstrap
_NEXT_TO_END = 1e-9  # at an AUC of 0 or 1 the variance is 0, which is no end of an interval

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval.

    Args:
        value: The number.
        low: Lower end; None where the units cannot show how much it varies.
        high: Upper end; None likewise.
        n: Number of units.
        unit: What was drawn anew, in the plural: "queries", "rows", "seeds".
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """``{"value", "low", "high", "n", "unit"}``."""
        return asdict(self)

    def text(self, digits: int = 3, sign: str = "") -> str:
        """``0.123 [0.100, 0.146]``, without the bracket where there is no interval; ``sign="+"`` for differences."""
        form = f"{sign}.{digits}f"
        ends = "" if self.low is None or self.high is None else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.value:{form}}{ends}"


@dataclass(frozen=True)
class Rate:
    """``value`` of ``n`` answers, in [0, 1], with its two-sided 95% interval; the unit is the answer."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def from_counts(cls, hits: int, n: int, confidence: float = CONFIDENCE) -> Rate:
        """Clopper-Pearson (Biometrika 1934): the rates at which so many hits, or so few, are just plausible.

        Exact for independent answers: its coverage is at least ``confidence`` for every true rate.

        Raises:
            InputError: If ``n`` is 0.
            ValueError: If ``hits`` is not in 0..n.
        """
        from scipy.stats import binomtest

        if n == 0:
            raise InputError("a rate needs at least one answer, and there is none. Are the evaluation rows empty?")
        if not 0 <= hits <= n:
            raise ValueError(f"{hits} hits of {n} answers")
        interval = binomtest(hits, n).proportion_ci(confidence, method="exact")
        return cls(hits / n, float(interval.low), float(interval.high), n)

    @classmethod
    def from_flags(cls, flags: npt.NDArray[np.bool_] | list[bool]) -> Rate:
        """The share of true flags."""
        return cls.from_counts(int(np.sum(flags)), len(flags))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Rate:
        """What `to_dict` gave."""
        return cls(float(value["value"]), float(value["low"]), float(value["high"]), int(value["n"]))

    def to_dict(self) -> dict[str, Any]:
        """``{"value", "low", "high", "n"}``."""
        return asdict(self)


def over_units(values: Sequence[float], unit: str, within: tuple[float, float] = _EVERYWHERE) -> Interval | None:
    """The mean of one value a unit with its t interval; None where there are none.

    There is no interval for one unit, or where all values are the same.

    Args:
        values: One a unit, each the mean of all that was measured on it.
        unit: "seeds", "models", "scenarios", ...
        within: Where the true mean must lie (`RATE` for shares); an end beyond it is cut there.
    """
    from scipy.stats import sem, t

    if not len(values):
        return None
    mean, n = float(np.mean(values)), len(values)
    if n < 2 or len(set(values)) < 2:
        return Interval(mean, None, None, n, unit)
    low, high = t.interval(CONFIDENCE, n - 1, loc=mean, scale=sem(values))
    return Interval(mean, max(float(low), within[0]), min(float(high), within[1]), n, unit)


def bootstrap(
    statistic: Callable[..., float],
    *samples: npt.NDArray[Any],
    unit: str,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """``statistic(*samples)`` with its percentile bootstrap (Efron, Annals of Statistics 1979), resampled together.

    Args:
        statistic: Of arrays with one entry a unit.
        samples: Arrays of the same length along axis 0; a resample draws the same units of all.
        unit: What the entries are: "rows", "queries".
        seed: Of the resampling.
        resamples: How many.
    """

    def of_units(units: npt.NDArray[np.int64]) -> float:
        return statistic(*(sample[units] for sample in samples))

    return _percentiles(of_units, [len(samples[0])], unit, seed, resamples)


def bootstrap_strata(
    statistic: Callable[..., float],
    *strata: npt.NDArray[Any],
    unit: str,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """As `bootstrap`, of samples of different units: each is resampled on its own, to its own length."""

    def of_units(*units: npt.NDArray[np.int64]) -> float:
        return statistic(*(stratum[chosen] for stratum, chosen in zip(strata, units, strict=True)))

    return _percentiles(of_units, [len(stratum) for stratum in strata], unit, seed, resamples)


def _percentiles(
    of_units: Callable[..., float], sizes: Sequence[int], unit: str, seed: int, resamples: int
) -> Interval:
    from scipy.stats import bootstrap as resample

    every, n = tuple(np.arange(size) for size in sizes), sum(sizes)
    value = float(of_units(*every))
    if min(sizes) < 2:
        return Interval(value, None, None, n, unit)
    found = resample(
        every, of_units, n_resamples=resamples, batch=max(1, _BATCH // n), vectorized=False,
        confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(value, float(found.low), float(found.high), n, unit)


def percentile_ends(drawn: _Floats) -> tuple[_Floats, _Floats]:
    """Ends of the 95% percentile interval of values already resampled, along the first axis."""
    low, high = np.percentile(drawn, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)], axis=0)
    return low, high


# --- Arms on the same blocks ------------------------------------------------------------------------------------------


def area_under_curve(value: float, ours: int, theirs: int) -> Interval:
    """An AUC with its score interval (Newcombe, Statistics in Medicine 2006, part 2, method 5).

    The ends are the AUCs ``A`` that lie 1.96 standard errors from the one measured, with Hanley and McNeil's variance
    ``A(1-A)[1 + N(1-A)/(2-A) + N A/(1+A)] / (m n)``, ``N = (m+n)/2 - 1``. A bootstrap would call two groups that are
    apart in a handful of rows apart for certain; this does not.

    Args:
        value: The AUC.
        ours: ``m``, rows of one group.
        theirs: ``n``, rows of the other.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    width, extra = norm.ppf(0.5 + CONFIDENCE / 2), (ours + theirs) / 2 - 1

    def beyond(area: float) -> float:
        spread = 1 + extra * (1 - area) / (2 - area) + extra * area / (1 + area)
        return float((area - value) ** 2 - width**2 * area * (1 - area) * spread / (ours * theirs))

    low = brentq(beyond, 0.0, min(value, 1 - _NEXT_TO_END)) if value > 0 else 0.0
    high = brentq(beyond, max(value, _NEXT_TO_END), 1.0) if value < 1 else 1.0
    return Interval(value, float(low), float(high), ours + theirs, "rows")
