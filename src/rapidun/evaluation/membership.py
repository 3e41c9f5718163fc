"""Membership inference: scores by which rows that a model was trained on are told from rows that it was not.

Every score is of one row, and says by itself which way it points. `membership_auc` says how well it tells two groups
apart.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]


def min_k(log_probs: Sequence[npt.ArrayLike], share: float = 0.2) -> _Floats:
    """Min-K%: the mean log-probability of the least likely tokens (Shi et al. 2024, arXiv 2310.16789, eq. 1).

    Args:
        log_probs: Of each row (tokens,), the log-probability of its tokens, in nats.
        share: Which part of the tokens, above 0 and at most 1; rounded down, but at least one token. 1 is minus the
            mean loss. The paper's best is 0.2; MUSE takes 0.4 for PrivLeak.

    Returns:
        (rows,) float64, in nats; higher for members. NaN for a row without tokens.

    Raises:
        ValueError: If ``share`` is out of range.
    """
    return _lowest(log_probs, share)


def min_k_plus_plus(z_scores: Sequence[npt.ArrayLike], share: float = 0.2) -> _Floats:
    """Min-K%++: the mean z-score of the tokens with the lowest (Zhang et al. 2024, arXiv 2404.02936).

    A token's z-score is ``(log p(y) - mu) / sigma``, ``mu`` and ``sigma`` the mean and the standard deviation of
    ``log p(v)`` over ``v ~ p``: how likely the token is among what the model expects there.

    Args:
        z_scores: Of each row (tokens,), without unit.
        share: As of `min_k`.

    Returns:
        (rows,) float64; higher for members. NaN for a row without tokens.

    Raises:
        ValueError: If ``share`` is out of range.
    """
    return _lowest(z_scores, share)


def _lowest(values: Sequence[npt.ArrayLike], share: float) -> _Floats:
    """The mean of each row's lowest ``max(1, floor(share * tokens))`` values."""
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share} of the tokens: it must be above 0 and at most 1")
    rows = [np.sort(np.asarray(row, np.float64)) for row in values]
    counts = [max(1, int(share * len(row) + 1e-9)) for row in rows]  # 0.29 * 100 is 28.999...
    return np.array([row[:n].mean() if len(row) else np.nan for row, n in zip(rows, counts, strict=True)], np.float64)


def zlib_ratio(losses: npt.ArrayLike, texts: Sequence[str]) -> _Floats:
    """Loss over how little the text can be compressed (Carlini et al. 2021, arXiv 2012.07805).

    Args:
        losses: (rows,) mean loss of a row's tokens, in nats.
        texts: (rows,) their texts; their bytes in UTF-8 are compressed by zlib at its default level.

    Returns:
        (rows,) float64, in nats a byte; lower for members.

    Raises:
        ValueError: If there are more texts than losses, or fewer.
    """
    sizes = np.array([len(zlib.compress(text.encode("utf-8"))) for text in texts], np.float64)
    given = np.asarray(losses, np.float64)
    if given.shape != sizes.shape:
        raise ValueError(f"{given.shape} losses and {sizes.shape} texts")
    found: _Floats = given / sizes
    return found


def reference_ratio(losses: npt.ArrayLike, reference_losses: npt.ArrayLike) -> _Floats:
    """Loss over that of a model which has not seen the rows (Carlini et al. 2021, arXiv 2012.07805).

    Args:
        losses: (rows,) mean loss of a row's tokens, in nats.
        reference_losses: (rows,) the same by the reference model.

    Returns:
        (rows,) float64; lower for members, 1 where both find the row alike. NaN where both losses are 0.
    """
    ours, theirs = np.asarray(losses, np.float64), np.asarray(reference_losses, np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.shape} losses and {theirs.shape} reference losses")
    with np.errstate(divide="ignore", invalid="ignore"):
        found: _Floats = ours / theirs
    return found


def membership_auc(members: npt.ArrayLike, others: npt.ArrayLike) -> float:
    """How often a member scores higher than another row, ties counting half: the area under the ROC curve.

    Args:
        members: (rows,) scores, higher for members: turn those around whose low values speak for members. May be
            infinite.
        others: (rows,) scores of rows that the model was not trained on.

    Returns:
        From 0 to 1; 0.5 means that the scores do not tell them apart.

    Raises:
        ValueError: If either is empty or holds a NaN.
    """
    from scipy.stats import rankdata
    from sklearn.metrics import roc_auc_score

    one, other = np.asarray(members, np.float64), np.asarray(others, np.float64)
    if not (len(one) and len(other)) or np.isnan(one).any() or np.isnan(other).any():
        raise ValueError(f"scores of {len(one)} members and {len(other)} others: each needs one, and none may be NaN")
    labels = np.r_[np.ones(len(one)), np.zeros(len(other))]
    return float(roc_auc_score(labels, rankdata(np.r_[one, other])))  # ranks: the library takes no infinite scores


def privleak(auc: float, auc_retained: float = 0.5) -> float:
    """The relative distance of an AUC from that of a retained model, ``(auc - r) / r``.

    Shi et al. 2024, MUSE, arXiv 2407.06460, section 3.
    MUSE's AUC is that of telling the *held-out* rows by their Min-K% score, so it is 1 minus that of `membership_auc`.
    By it the number is negative where the forget rows are still known (-1 at worst), 0 where the model is like the
    retained one, and positive where they were pushed below rows that nobody ever saw, which tells them apart as well.

    Args:
        auc: Of the model, of `min_k` at a share of 0.4 in MUSE.
        auc_retained: Of the retained model on the same rows; 0.5 where held-out rows stand for what it would say.

    Returns:
        A share, which MUSE prints in percent; infinite where ``auc_retained`` is 0 and ``auc`` is not.

    Raises:
        ValueError: If either is outside 0 to 1.
    """
    if not (0 <= auc <= 1 and 0 <= auc_retained <= 1):
        raise ValueError(f"AUCs of {auc} and {auc_retained}: they lie between 0 and 1")
    if auc_retained == 0:
        return 0.0 if auc == 0 else float("inf")
    return (auc - auc_retained) / auc_retained
