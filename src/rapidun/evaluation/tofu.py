"""TOFU: what a model still can and whether it forgot (Maini et al. 2024, arXiv 2401.06121, section 2.2).

    model utility  = harmonic mean of {retain, real authors, world facts} x {probability, ROUGE-L recall, truth score}
    forget quality = p-value of the KS test between truth ratios of the forget rows, the model's and a retained model's

The rows' numbers are those of the suite `qa`, but for one: the probability of real authors and world facts, which are
multiple choice, is the right answer's share among the choices (`choice_probability`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rapidun.evaluation.qa import UTILITY, FloatArray, Metrics, RowScores, means, quality, row_metrics
from rapidun.evaluation.utility import model_utility
from rapidun.stats import Interval, bootstrap_strata

GROUPS = ("forget", "retain", "real_authors", "world_facts")
CHOICES = ("real_authors", "world_facts")
"""Groups whose wrong answers are the other choices."""


def choice_probability(correct: npt.ArrayLike, wrong: npt.ArrayLike) -> FloatArray:
    """``p(a) / (p(a) + sum_j p(w_j))``, ``p = exp(-L)``: the right answer's share among the choices.

    Length-normalised probabilities, as TOFU's released code takes them.

    Args:
        correct: (rows,) mean loss of a token of the right answer, in nats.
        wrong: (rows, wrong answers) of each wrong one; NaN where a row has fewer.

    Returns:
        (rows,) float64 in [0, 1]; NaN for a row without a wrong answer.
    """
    from scipy.special import logsumexp

    right, others = np.asarray(correct, np.float64), np.asarray(wrong, np.float64)
    there = ~np.isnan(others)
    every = np.concatenate([-right[:, None], np.where(there, -others, -np.inf)], axis=1)
    found: FloatArray = np.where(there.any(axis=1), np.exp(-right - logsumexp(every, axis=1)), np.nan)
    return found


def tofu_row_metrics(scores: RowScores) -> dict[str, FloatArray]:
    """The numbers of `row_metrics`, and ``choice_probability``."""
    return row_metrics(scores) | {"choice_probability": choice_probability(scores.losses, scores.wrong)}


def tofu_values(model: Mapping[str, Metrics], retained: Mapping[str, Metrics] | None = None) -> dict[str, Interval]:
    """The suite's values from the numbers of each row.

    Args:
        model: Each of `GROUPS` to its rows' numbers (`tofu_row_metrics`).
        retained: Of a retained model, at least those of the forget rows; None where there is none.

    Returns:
        ``GROUP.NAME`` as `qa_values` has them; ``model_utility`` where all nine terms were measured, with a bootstrap
        over the rows of each group; ``forget_quality``, a p-value, where there is a retained model.
    """
    groups = {name: _with_its_probability(name, model[name]) for name in GROUPS}
    found = {f"{group}.{name}": value for group in GROUPS for name, value in means(groups[group]).items()}
    terms = [np.stack([groups[group][name] for name in UTILITY], axis=1) for group in GROUPS[1:]]
    if not any(np.isnan(term).all(axis=0).any() for term in terms):
        found["model_utility"] = bootstrap_strata(_utility, *terms, unit="rows")
    if retained is not None:
        tested = quality(model["forget"]["truth_ratio"], retained["forget"]["truth_ratio"])
        found |= {"forget_quality": tested} if tested is not None else {}
    return found


def _with_its_probability(group: str, metrics: Metrics) -> Metrics:
    return {**metrics, "probability": metrics["choice_probability"]} if group in CHOICES else metrics


def _utility(*groups: FloatArray) -> float:
    """Of (rows, terms) of each group; a term that a resample has of no row counts as lost."""
    there = [~np.isnan(group) for group in groups]
    means = [
        np.where(known, group, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        for known, group in zip(there, groups, strict=True)
    ]
    return model_utility(np.concatenate(means))
