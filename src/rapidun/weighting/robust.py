"""Scores to bounded weights of mean one, by a robust z-score (RapidUn, arXiv 2512.04457).

``z = (S - median S) / max(1.4826 * MAD, floor)``, ``w = exp(clip(z / tau, ln w_min, ln w_max))``, ``w / mean(w)``.

1.4826 makes the median absolute deviation (MAD) agree with the standard deviation of a normal distribution.
The floor is what divides when about half of the scores or more are equal, so that the MAD is 0 or next to it. The
released code used 1e-3 whatever the unit of the scores; ours is a share of the MAD of the scores that *differ* from the
median, so that weights depend neither on the unit nor on how far away an outlier is: up to half of the scores that
differ may be arbitrarily wrong (Rousseeuw and Croux, JASA 1993, on what a scale survives).
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError, InputError
from rapidun.weighting.scores import FloatArray

MAD_TO_DEVIATION = 1.4826
"""MAD to standard deviation, as in the paper's code (1 / Phi^-1(3/4), four decimals)."""

RELATIVE_FLOOR = 0.1
"""The relative floor is this share of the deviation of the scores that differ from the median."""

ROUNDING_FLOOR = 1e-9
"""Differences below this share of a score's usual size (the median of absolute values) are rounding, not signal."""

NEARLY_CONSTANT = 1.05
"""Weights whose largest and smallest differ by less than this factor weigh nothing."""


class WeightWarning(UserWarning):
    """Weights that are valid but hardly depend on the scores, or hardly on anything else."""


def robust_weights(
    scores: npt.ArrayLike,
    temperature: float,
    w_min: float = 0.2,
    w_max: float = 3.0,
    floor: str | float = "relative",
) -> FloatArray:
    """Bounded, mean-one, monotone weights.

    Args:
        scores: (n,) real scores; higher scores get higher weights.
        temperature: ``tau``; the paper uses 0.7 for forget and 1.2 for retain rows.
        w_min: Smallest weight before division by the mean, in (0, 1].
        w_max: Largest weight before division by the mean, at least 1. The ratio of any two weights is at most
            ``w_max / w_min``.
        floor: "relative" (weights then do not change when scores are shifted or multiplied by a positive
            number) or an absolute number above 0 (1e-3 reproduces the released code).

    Returns:
        (n,) float64 with mean 1.

    Raises:
        InputError: If ``scores`` is empty, not one-dimensional or not finite.
        ConfigError: If a setting is out of range.

    Warns:
        WeightWarning: If the MAD is 0, if more than half of the weights sit at a bound, or if the weights are
            nearly constant.
    """
    values = _checked_scores(scores)
    _check_settings(temperature, w_min, w_max)
    centred = values - np.median(values)
    mad = float(np.median(np.abs(centred)))
    scale = max(MAD_TO_DEVIATION * mad, _floor(values, centred, floor))
    # All scores equal: no scale, and every row is the median.
    standardised = centred / scale if scale > 0 else np.zeros_like(centred)
    bounds = math.log(w_min), math.log(w_max)
    exponents = np.clip(standardised / temperature, *bounds)
    raw = np.exp(exponents)
    weights: FloatArray = raw / raw.mean()
    if len(weights) > 1:
        _warn_if_degenerate(weights, mad, at_bound=float(np.isin(exponents, bounds).mean()))
    return weights


def _floor(values: FloatArray, centred: FloatArray, floor: str | float) -> float:
    if floor == "relative":
        rounding = ROUNDING_FLOOR * float(np.median(np.abs(values)))
        differing = np.abs(centred)[np.abs(centred) > rounding]
        deviation = MAD_TO_DEVIATION * float(np.median(differing)) if differing.size else 0.0
        return max(RELATIVE_FLOOR * deviation, rounding)
    if isinstance(floor, str) or not 0 < floor < math.inf:
        raise ConfigError(f'floor is {floor!r}; it must be "relative" or a finite number above 0.')
    return float(floor)


def _checked_scores(scores: npt.ArrayLike) -> FloatArray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"scores have shape {values.shape}; they must be one number per row, at least one row.")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(f"the score of row {row} is {values[row]}; scores must be finite.")
    return values


def _check_settings(temperature: float, w_min: float, w_max: float) -> None:
    if not 0 < temperature < math.inf:
        raise ConfigError(f"temperature is {temperature}; it must be a finite number above 0.")
    if not 0 < w_min <= 1 <= w_max < math.inf:
        raise ConfigError(f"w_min is {w_min} and w_max is {w_max}; they must satisfy 0 < w_min <= 1 <= w_max.")


def _warn_if_degenerate(weights: FloatArray, mad: float, at_bound: float) -> None:
    if mad == 0:
        _warn(
            "more than half of the scores are equal (MAD 0), so the weights come from the floor alone. "
            "Top-k truncation does this: try top_k=None."
        )
    if at_bound > 0.5:
        _warn(
            f"{at_bound:.0%} of the weights sit at w_min or w_max: the weights are a two-way split of the rows. "
            "Raise the temperature or widen the bounds."
        )
    if weights.max() < NEARLY_CONSTANT * weights.min():
        _warn("the weights are nearly constant: this run is the same as uniform weights.")


def _warn(message: str) -> None:
    warnings.warn(message, WeightWarning, stacklevel=4)
