"""The truth ratio: how likely wrong answers are beside the right one, and what it says of forgetting.

    R = P(wrong) / P(correct),    P(a) = exp(-L(a)),  L(a) the mean loss of an answer's tokens

TOFU (Maini et al. 2024, arXiv 2401.06121, eq. 1) takes the arithmetic mean of the wrong answers' probabilities,
open-unlearning (Dorna et al. 2025, arXiv 2506.12618) the geometric one. The two are the same where a row has one wrong
answer, or wrong answers of the same loss; elsewhere TOFU's is the larger. Nothing else differs.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Convention = Literal["tofu", "open-unlearning"]
_Floats = npt.NDArray[np.float64]


def truth_ratio(correct: npt.ArrayLike, wrong: npt.ArrayLike, convention: Convention = "tofu") -> _Floats:
    """Each row's ``P(wrong) / P(correct)``.

    With ``c`` the loss of the right answer (TOFU: of a paraphrase of it) and ``w_1..w_k`` those of the wrong ones:
    ``"tofu"`` is ``exp(c) * mean_j exp(-w_j)``, ``"open-unlearning"`` is ``exp(c - mean_j w_j)``. Computed from
    differences of losses, so that no probability is rounded to 0. open-unlearning's code adds 1e-10 to the right
    answer's probability, which is of no weight below a loss of about 20 nats a token; here nothing is added.

    Args:
        correct: (rows,) mean loss of an answer token, in nats; may be infinite.
        wrong: (rows, wrong answers), the same of each wrong answer; NaN where a row has fewer.
        convention: Whose mean of the wrong answers' probabilities.

    Returns:
        (rows,) float64, from 0 to infinity: below 1 the right answer is more likely. NaN for a row without a wrong
        answer, and where both probabilities are 0.

    Raises:
        ValueError: If the shapes do not belong together, or the convention is unknown.
    """
    right, others = np.asarray(correct, np.float64), np.asarray(wrong, np.float64)
    if right.ndim != 1 or others.ndim != 2 or len(right) != len(others):
        raise ValueError(f"losses of shape {right.shape} and {others.shape}, not (rows,) and (rows, wrong answers)")
    if convention not in get_args(Convention):
        raise ValueError(f"convention {convention!r}: choose from {', '.join(get_args(Convention))}")
    log_wrong = _log_arithmetic(others) if convention == "tofu" else -_mean(others)
    with np.errstate(over="ignore", invalid="ignore"):
        found: _Floats = np.exp(log_wrong + right)
    return found


def _log_arithmetic(losses: _Floats) -> _Floats:
    """``log mean_j exp(-w_j)`` over those that are there."""
    from scipy.special import logsumexp

    there = ~np.isnan(losses)
    count = there.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = logsumexp(np.where(there, -losses, -np.inf), axis=1) if losses.shape[1] else np.zeros(len(losses))
        found: _Floats = np.where(count > 0, total - np.log(count), np.nan)
    return found


def _mean(losses: _Floats) -> _Floats:
    there = ~np.isnan(losses)
    with np.errstate(invalid="ignore"):
        found: _Floats = np.where(there, losses, 0.0).sum(axis=1) / there.sum(axis=1)
    return found


def truth_score(ratios: npt.ArrayLike) -> _Floats:
    """``max(0, 1 - R)`` of each row: what a truth ratio adds to model utility (arXiv 2401.06121, section 2.2).

    Args:
        ratios: (rows,) of `truth_ratio`.

    Returns:
        (rows,) float64 in [0, 1]: 1 where only the right answer is likely, 0 where wrong ones are at least as likely;
        NaN where the ratio is.
    """
    found: _Floats = np.maximum(0.0, 1.0 - np.asarray(ratios, np.float64))
    return found


def forget_quality(truth_ratio_model: npt.ArrayLike, truth_ratio_retained: npt.ArrayLike) -> float:
    """How well the truth ratios of two models on the forget rows could be of one distribution.

    The p-value of the two-sample Kolmogorov-Smirnov test, two-sided (arXiv 2401.06121, section 2.2): the largest
    distance between the two distribution functions, and how often chance alone makes one so large. It does not change
    when both are transformed by the same increasing or decreasing function, so ``R`` and ``1/R`` give the same.

    Args:
        truth_ratio_model: (rows,) of the model that is said to have forgotten.
        truth_ratio_retained: (rows,) of a model that never saw the forget rows; the numbers of rows may differ.

    Returns:
        From 0 to 1. Near 0 the two models differ for certain. A large value means that no difference was seen, which
        few rows can never show: it is no proof of sameness.

    Raises:
        ValueError: If either is empty or holds a NaN.
    """
    from scipy.stats import ks_2samp

    return float(ks_2samp(_ratios(truth_ratio_model), _ratios(truth_ratio_retained)).pvalue)


def _ratios(values: npt.ArrayLike) -> _Floats:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found) or np.isnan(found).any():
        raise ValueError(f"truth ratios of shape {found.shape}: expected at least one row, and none that is NaN")
    return found
