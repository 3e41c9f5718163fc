"""How much of an answer a model has by heart: from whether its first choice at every token is the answer's own.

Both are computed on teacher-forced hits: at every position the model has read the true answer so far. All tokens of the
answer count, its last included; the end of a turn is no part of it (`rapidun.models.token_scores`): what ends an answer
is easily guessed once all of it was given, and would keep the strength above 0 for a model that knows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]


def extraction_strength(hits: Sequence[npt.ArrayLike]) -> _Floats:
    """``1 - k/T``, ``k`` the shortest prefix of the answer's ``T`` tokens after which every token is a hit.

    Carlini et al. 2021 (arXiv 2012.07805), as a strength in Wang et al. 2024 (arXiv 2406.09179): 1 where the prompt
    alone brings the whole answer, 0 where even the last token is missed.

    Args:
        hits: Of each row (tokens,) bool, whether the most likely token is the answer's.

    Returns:
        (rows,) float64 in [0, 1]; NaN for a row without tokens.
    """
    return np.array([_strength(np.asarray(row, bool)) for row in hits], np.float64)


def _strength(hits: npt.NDArray[np.bool_]) -> float:
    if not len(hits):
        return float("nan")
    missed = np.flatnonzero(~hits)
    prefix = int(missed[-1]) + 1 if len(missed) else 0
    return 1.0 - prefix / len(hits)


def exact_memorisation(hits: Sequence[npt.ArrayLike]) -> _Floats:
    """The share of an answer's tokens that are the model's first choice (Tirumala et al. 2022, arXiv 2205.10770).

    Args:
        hits: Of each row (tokens,) bool.

    Returns:
        (rows,) float64 in [0, 1]; NaN for a row without tokens.
    """
    rows = [np.asarray(row, bool) for row in hits]
    return np.array([row.mean() if len(row) else np.nan for row in rows], np.float64)
