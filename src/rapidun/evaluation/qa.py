"""The suite `qa`: what a model still knows of forget rows, beside rows to keep and rows that nobody trained on.

    per-token scores of each row (`RowScores`) -> numbers of each row (`row_metrics`) -> values (`qa_values`)

Each step is a pure function of the one before, so that anyone with the stored rows can do it again. A retained model
(trained without the forget rows) says what "forgotten" looks like. Without one, the model's own numbers on held-out
rows stand for it: rows that are like the forget rows and were in no training. That is a weaker yardstick, and is named
as one (`LOOK_ALIKES`): where the two groups differ in anything but training, so do the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapidun.evaluation.membership import (
    membership_auc,
    min_k,
    min_k_plus_plus,
    privleak,
    reference_ratio,
    zlib_ratio,
)
from rapidun.evaluation.memorisation import exact_memorisation, extraction_strength
from rapidun.evaluation.truth_ratios import forget_quality, truth_ratio, truth_score
from rapidun.evaluation.utility import model_utility
from rapidun.stats import RATE, Interval, area_under_curve, bootstrap, over_units

GROUPS = ("forget", "retain", "held_out")
RETAINED, LOOK_ALIKES = "retained model", "look-alikes, not a retained model"
SHARES = (
    "probability",
    "rouge_l_recall",
    "truth_score",
    "extraction_strength",
    "exact_memorisation",
    "paraphrased_probability",
    "paraphrased_rouge_l_recall",
)
"""Numbers in [0, 1] of each row whose mean is a value."""
MEMBERSHIP = {"loss": -1, "zlib_ratio": -1, "min_k": 1, "min_k_plus_plus": 1, "reference_ratio": -1}
"""Scores that tell members from others, and 1 where members score higher."""
UTILITY = ("probability", "rouge_l_recall", "truth_score")
MUSE_SHARE = 0.4
"""The share of tokens that PrivLeak takes in MUSE."""
_EVEN = Interval(0.5, 0.5, 0.5, 0, "rows")

FloatArray = npt.NDArray[np.float64]
Metrics = Mapping[str, FloatArray]
"""Numbers of one group's rows: name to (rows,), NaN where a row has none."""


@dataclass(frozen=True, eq=False)
class RowScores:
    """What one model says of one group's rows.

    Args:
        ids: Of the rows.
        losses: (rows,) mean loss of an answer token, in nats.
        log_probs: (own tokens,) of each row, in nats.
        hits: (own tokens,) bool of each row.
        z_scores: (own tokens,) of each row.
        texts: The answers, whose compressed size the zlib ratio needs.
        correct: (rows,) loss of the right answer in other words, or of the answer itself where the row has none.
        wrong: (rows, wrong answers) their losses; NaN where a row has fewer.
        rouge: (rows,) ROUGE-L recall of what the model says; NaN where it was not measured.
        paraphrased_losses: (rows,) loss of the answer to the question in other words; NaN where the row has none.
        paraphrased_rouge: (rows,) ROUGE-L recall likewise.
        answers: What the model says.
    """

    ids: Sequence[str]
    losses: FloatArray
    log_probs: Sequence[npt.NDArray[np.float32]]
    hits: Sequence[npt.NDArray[np.bool_]]
    z_scores: Sequence[npt.NDArray[np.float32]]
    texts: Sequence[str]
    correct: FloatArray
    wrong: FloatArray
    rouge: FloatArray
    paraphrased_losses: FloatArray
    paraphrased_rouge: FloatArray
    answers: Sequence[str]


_NOTHING = np.zeros(0)
NO_ROWS = RowScores([], _NOTHING, [], [], [], [], _NOTHING, np.zeros((0, 0)), _NOTHING, _NOTHING, _NOTHING, [])


def row_metrics(scores: RowScores) -> dict[str, FloatArray]:
    """Every number that one model gives of each row: name to (rows,) float64, NaN where the row has none.

    Losses are in nats a token, ``zlib_ratio`` in nats a byte; the others have no unit. Truth ratios are TOFU's.
    """
    ratios = truth_ratio(scores.correct, scores.wrong, "tofu")
    return {
        "loss": scores.losses,
        "probability": np.exp(-scores.losses),
        "rouge_l_recall": scores.rouge,
        "truth_ratio": ratios,
        "truth_score": truth_score(ratios),
        "extraction_strength": extraction_strength(scores.hits),
        "exact_memorisation": exact_memorisation(scores.hits),
        "paraphrased_probability": np.exp(-scores.paraphrased_losses),
        "paraphrased_rouge_l_recall": scores.paraphrased_rouge,
        "min_k": min_k(scores.log_probs),
        "min_k_muse": min_k(scores.log_probs, MUSE_SHARE),
        "min_k_plus_plus": min_k_plus_plus(scores.z_scores),
        "zlib_ratio": zlib_ratio(scores.losses, scores.texts),
    }


def qa_values(model: Mapping[str, Metrics], retained: Mapping[str, Metrics] | None = None) -> dict[str, Interval]:
    """The suite's values from the numbers of each row.

    Args:
        model: Each of `GROUPS` to its rows' numbers.
        retained: The same rows' numbers by a retained model; None where there is none.

    Returns:
        Name to value, interval, number of rows. ``GROUP.NAME`` for each of `SHARES`; ``membership.NAME``, the AUC of
        telling forget from held-out rows; ``privleak``; ``forget_quality``, a p-value; ``utility`` of the retain rows.
        A value whose columns no row has is absent.
    """
    found = {f"{group}.{name}": value for group in GROUPS for name, value in means(model[group]).items()}
    found |= {f"membership.{name}": value for name, value in _aucs(model, retained).items()}
    rest = {"privleak": _privleak(model, retained), "forget_quality": _quality(model, retained)}
    rest["utility"] = _utility(model["retain"])
    return found | {name: value for name, value in rest.items() if value is not None}


def _there(values: FloatArray) -> FloatArray:
    return values[~np.isnan(values)]


def means(metrics: Metrics) -> dict[str, Interval]:
    """The mean of each of `SHARES` over the rows that have it."""
    found = {name: over_units(_there(metrics[name]).tolist(), "rows", within=RATE) for name in SHARES}
    return {name: value for name, value in found.items() if value is not None}


def _aucs(model: Mapping[str, Metrics], retained: Mapping[str, Metrics] | None) -> dict[str, Interval]:
    scores = {group: dict(model[group]) for group in ("forget", "held_out")}
    if retained is not None:
        for group, metrics in scores.items():
            metrics["reference_ratio"] = reference_ratio(metrics["loss"], retained[group]["loss"])
    found = {
        name: _auc(sign * scores["forget"][name], sign * scores["held_out"][name])
        for name, sign in MEMBERSHIP.items()
        if name in scores["forget"]
    }
    return {name: value for name, value in found.items() if value is not None}


def _auc(forget: FloatArray, held_out: FloatArray) -> Interval | None:
    ours, theirs = _there(forget), _there(held_out)
    if not (len(ours) and len(theirs)):
        return None
    return area_under_curve(membership_auc(ours, theirs), len(ours), len(theirs))


def _privleak(model: Mapping[str, Metrics], retained: Mapping[str, Metrics] | None) -> Interval | None:
    """The interval takes each of both AUCs at its unfavourable end; no end where it would be infinite."""
    ours, theirs = _muse_auc(model), _EVEN if retained is None else _muse_auc(retained)
    if ours is None or theirs is None or not theirs.value:
        return None
    low, high = (
        privleak(end, against) if end is not None and against else None
        for end, against in ((ours.low, theirs.high), (ours.high, theirs.low))
    )
    return Interval(privleak(ours.value, theirs.value), low, high, ours.n, "rows")


def _muse_auc(model: Mapping[str, Metrics]) -> Interval | None:
    return _auc(-model["forget"]["min_k_muse"], -model["held_out"]["min_k_muse"])


def _quality(model: Mapping[str, Metrics], retained: Mapping[str, Metrics] | None) -> Interval | None:
    theirs = retained["forget"] if retained is not None else model["held_out"]
    return quality(model["forget"]["truth_ratio"], theirs["truth_ratio"])


def quality(truth_ratios: FloatArray, yardstick: FloatArray) -> Interval | None:
    """`forget_quality` of the rows that have a truth ratio, without an interval; None where there are none."""
    ours, theirs = _there(truth_ratios), _there(yardstick)
    if not (len(ours) and len(theirs)):
        return None
    return Interval(forget_quality(ours, theirs), None, None, len(ours) + len(theirs), "rows")


def _utility(retain: Metrics) -> Interval:
    """The harmonic mean of those of `UTILITY` that were measured, with a bootstrap over the rows."""
    terms = [retain[name] for name in UTILITY if len(_there(retain[name]))]

    def of(*columns: FloatArray) -> float:
        return model_utility([float(_there(column).mean()) if len(_there(column)) else 0.0 for column in columns])

    return bootstrap(of, *terms, unit="rows")
