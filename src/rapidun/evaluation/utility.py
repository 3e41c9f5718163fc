"""Model utility: what a model still can, as one number that a single failure pulls down."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def model_utility(values: npt.ArrayLike) -> float:
    """The harmonic mean, ``n / sum_i 1/v_i`` (TOFU, arXiv 2401.06121, section 2.2).

    TOFU's values are nine: of retain rows, real authors and world facts each the mean probability of the answer, the
    mean ROUGE-L recall, and the mean of ``max(0, 1 - R)`` (`truth_score`).

    Args:
        values: (terms,) means, each from 0 (nothing left) to 1.

    Returns:
        At most the ordinary mean; 0 as soon as one value is.

    Raises:
        ValueError: If there is no value, or one is negative or not finite.
    """
    terms = np.asarray(values, np.float64).ravel()
    if not len(terms) or not (np.isfinite(terms).all() and (terms >= 0).all()):
        raise ValueError(f"model utility of {terms.tolist()}: expected at least one number, none negative or missing")
    if not terms.all():
        return 0.0
    with np.errstate(over="ignore"):  # SciPy's mean takes ten times as long, and a bootstrap asks thousands of times
        return float(len(terms) / (1 / terms).sum())
