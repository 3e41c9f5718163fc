"""A query that is a difference: why this answer rather than that one.

    q = grad L(t_bad) - grad L(t_good)

What the two answers share, the prompt and the way of speaking, cancels; what is left is what makes the bad one bad.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.attribution.similarity import Array, check_vectors, prepared
from rapidun.errors import InputError

Row = Mapping[str, Any]
GOOD_COLUMNS = ("response_good", "response_clean")


def contrast_vectors(bad: npt.NDArray[np.generic], good: npt.NDArray[np.generic], *, unit: bool = True) -> Array:
    """``bad - good`` row by row, (queries, k) float32.

    Args:
        bad: (queries, k) gradient vectors of the bad answers.
        good: (queries, k) of the good answers, row for row.
        unit: Give both norm 1 first, so that an answer with a large loss does not drown the other.

    Raises:
        InputError: If the shapes differ or a value is not finite.
    """
    check_vectors(bad=bad, good=good)
    if len(bad) != len(good):
        raise InputError(f"{len(bad)} bad and {len(good)} good answers: a contrast needs pairs.")
    left, right = (prepared(vectors, "cosine" if unit else "dot") for vectors in (bad, good))
    difference: Array = left - right
    return difference


def contrast_rows(
    rows: Sequence[Row], good_answers: Sequence[str] | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same prompts with the bad and with the good answers, ready to be tokenised.

    Args:
        rows: Rows with ``prompt`` and the bad ``response``; the good one is in ``response_good`` or
            ``response_clean``.
        good_answers: Good answers from elsewhere, for instance the model's own to the prompts without trigger.

    Raises:
        InputError: If a row has no good answer, or its two answers are the same; names the row.
    """
    if good_answers is not None and len(good_answers) != len(rows):
        raise InputError(f"{len(good_answers)} good answers for {len(rows)} rows: give one for each.")
    bad, good = [], []
    for number, row in enumerate(rows):
        answer = good_answers[number] if good_answers is not None else _good_answer(row)
        if not answer:
            raise InputError(f"row {row.get('id', number)}: no good answer. Add a column {GOOD_COLUMNS[0]!r}.")
        if answer == row["response"]:
            raise InputError(f"row {row.get('id', number)}: its good answer is its bad one, so nothing is left.")
        bad.append(dict(row))
        good.append({**row, "response": answer})
    return bad, good


def _good_answer(row: Row) -> str:
    return next((str(row[name]) for name in GOOD_COLUMNS if row.get(name)), "")
