"""The reward of an arm: how relevant its answers are and how different from each other (Reveal-and-Release, section 3).

The difference is the Vendi score (Friedman and Dieng 2023, eq. 2):

``VS = exp(-sum_i l_i log l_i)`` with ``l`` the eigenvalues of ``K / n``, ``K`` the similarity matrix with ones on its
diagonal: the effective number of different answers. n equal answers have 1, n that share nothing have n.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_HASHED_WORDS = 1 << 18
_NO_WORDS = "nowordsatall"  # stands for an answer without a word, so that such answers equal each other
_WORD = r"(?u)\b\w+\b"


def vendi_score(similarity: FloatArray) -> float:
    """The Vendi score, in [1, n]; 0 for no answers.

    Args:
        similarity: (n, n) symmetric, positive semidefinite, ones on the diagonal.

    Raises:
        ValueError: If it is not square, not symmetric, or its diagonal is not 1.
    """
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a similarity matrix is square; this one is {matrix.shape}")
    if len(matrix) == 0:
        return 0.0
    if not np.allclose(matrix, matrix.T, atol=1e-6) or not np.allclose(np.diag(matrix), 1.0, atol=1e-6):
        raise ValueError("a similarity matrix is symmetric and has ones on its diagonal")
    values = np.linalg.eigvalsh(matrix / len(matrix))
    kept = values[values > 1e-12]  # 0 log 0 = 0; rounding may leave tiny negative ones
    return float(np.exp(-np.sum(kept * np.log(kept))))


def answer_similarity(answers: Sequence[str]) -> FloatArray:
    """(n, n) float64 cosine similarity of the answers' words and pairs of words, in [0, 1].

    Needs no model and no corpus, so the same answers always have the same score. Case and order of far words do not
    count. Answers without a word equal each other and nothing else.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    if not answers:
        return np.zeros((0, 0))
    vectorizer = HashingVectorizer(
        n_features=_HASHED_WORDS, ngram_range=(1, 2), token_pattern=_WORD, alternate_sign=False, norm="l2"
    )
    texts = [answer if any(character.isalnum() for character in answer) else _NO_WORDS for answer in answers]
    vectors = vectorizer.transform(texts)
    found = np.asarray((vectors @ vectors.T).todense(), dtype=np.float64)
    np.fill_diagonal(found, 1.0)
    return np.clip((found + found.T) / 2, 0.0, 1.0)


def diversity(answers: Sequence[str]) -> float:
    """Vendi score over the number of answers, in (0, 1]: 1 where no two share a word; 0 for no answers."""
    return vendi_score(answer_similarity(answers)) / len(answers) if answers else 0.0


def reward_of(relevance: float, diversity: float, weight: float = 0.5) -> float:
    """The weighted harmonic mean ``1 / (w/R + (1-w)/D)``, in [0, 1].

    Near the smaller of the two: one answer repeated is worth little however relevant, and so is a varied set beside
    the point. 0 if a part that carries weight is 0; a part of weight 0 is not looked at.

    Args:
        relevance: ``R``, mean judge score of the answers, in [0, 1].
        diversity: ``D``, Vendi score over the number of answers, in [0, 1].
        weight: ``w``, of the relevance, in [0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """
    for name, value in (("relevance", relevance), ("diversity", diversity), ("weight", weight)):
        if not 0.0 <= value <= 1.0 + 1e-9:
            raise ValueError(f"{name} is {value}; it must lie in [0, 1]")
    parts = [(share, value) for share, value in ((weight, relevance), (1.0 - weight, diversity)) if share > 0]
    if any(value <= 0 for _, value in parts):
        return 0.0
    return 1.0 / sum(share / value for share, value in parts)
