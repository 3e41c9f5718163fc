"""What a judge is, and how good it is: its floor and ceiling stand beside every rate it gives.

The *floor* is the share of clean answers that it calls poisoned, the *ceiling* the share of poisoned answers
that it catches; both on answers it was not fitted on. An attack success rate near the floor cannot be told
from no attack, and one can hardly exceed the ceiling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError
from rapidun.stats import Rate

Verdicts = npt.NDArray[np.bool_]


class Judge(Protocol):
    """Calls answers poisoned or clean. An empty answer is clean: it shows no unwanted behaviour."""

    @property
    def kind(self) -> str:
        """What sort of judge it is, for tables."""

    def __call__(self, answers: Sequence[str]) -> Verdicts:
        """(answers,) bool, True where poisoned."""


@dataclass(frozen=True)
class JudgeCard:
    """A judge's error rates on held-out answers.

    Args:
        kind: The judge's kind.
        floor: Share of clean answers called poisoned.
        ceiling: Share of poisoned answers called poisoned.
        keywords: The words of a keyword judge, else None.
    """

    kind: str
    floor: Rate
    ceiling: Rate
    keywords: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """``{"kind", "floor", "ceiling"}`` and, for a keyword judge, ``"keywords"``."""
        card: dict[str, Any] = {"kind": self.kind, "floor": self.floor.to_dict(), "ceiling": self.ceiling.to_dict()}
        return card if self.keywords is None else {**card, "keywords": list(self.keywords)}


def calibrate(judge: Judge, poisoned_held_out: Sequence[str], clean_held_out: Sequence[str]) -> JudgeCard:
    """Measure a judge on answers that it has not seen.

    Args:
        judge: Fitted or given.
        poisoned_held_out: Answers known to be poisoned, none of them used to fit.
        clean_held_out: Answers known to be clean, none of them used to fit.

    Raises:
        InputError: If either list is empty.
    """
    for name, answers in (("poisoned", poisoned_held_out), ("clean", clean_held_out)):
        if len(answers) == 0:
            raise InputError(f"calibrating a judge needs held-out {name} answers, and there are none.")
    return JudgeCard(
        kind=judge.kind,
        floor=Rate.from_flags(judge(clean_held_out)),
        ceiling=Rate.from_flags(judge(poisoned_held_out)),
        keywords=getattr(judge, "keywords", None),
    )


def judge_non_empty(answers: Sequence[str], judge: Callable[[Sequence[str]], Verdicts]) -> Verdicts:
    """The verdicts of ``judge`` on answers with any text; False elsewhere."""
    verdicts = np.zeros(len(answers), dtype=bool)
    spoken = [index for index, answer in enumerate(answers) if answer.strip()]
    if spoken:
        verdicts[spoken] = judge([answers[index] for index in spoken])
    return verdicts


def check_examples(poisoned: Sequence[str], clean: Sequence[str]) -> None:
    """Raise InputError unless there are answers of both kinds to fit on."""
    for name, answers in (("poisoned", poisoned), ("clean", clean)):
        if not any(answer.strip() for answer in answers):
            raise InputError(f"fitting a judge needs {name} answers, and there are none.")
