"""Exact answers to arithmetic questions: the last number of the answer is the last number of the reference.

Numbers are compared as numbers: ``1,200``, ``1200`` and ``$1200.00`` are the same. A GSM8K reference ends in
``#### 72``, so its last number is its answer.
"""

from __future__ import annotations

import re
from decimal import Decimal

from rapidun.errors import InputError
from rapidun.evaluation.task_judges import TaskJudge, each_answer, register_judge

_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)|(?<![\w.])[-\u2212]?\.\d+(?!\w)")


def last_number(text: str) -> Decimal | None:
    """The last number in ``text``; None where there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


@register_judge("exact-number")
def exact_number() -> TaskJudge:
    """1 where the last number of the answer equals the last number of the reference.

    Raises:
        InputError: When asked about an answer whose reference is missing or holds no number.
    """

    def score(answer: str, reference: str | None) -> float:
        right = last_number(reference or "")
        if right is None:
            raise InputError(
                f"judge 'exact-number' needs a reference with a number for each answer; one is {reference!r}. Give "
                "rows whose response ends in the right number."
            )
        return float(last_number(answer) == right)

    return each_answer(score)
