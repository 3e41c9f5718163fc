"""One point of an attack's curve before it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rapidun.models.passes import Progress


class CannotRun(Exception):  # noqa: N818  (no fault of anybody's)
    """Raised by a plan: why its attack cannot be run here, in half a sentence. It is then listed as not run."""


Outcome = dict[str, Any]
"""What came of one question, as `Target.ask` and `Target.losses` give it; plain JSON."""


@dataclass(frozen=True)
class Trial:
    """A measurement that depends on nothing that another left behind, so that any of them may be done again.

    Args:
        series: The curve that it is a point of; "" where the attack has one curve.
        effort: In the attack's unit.
        label: What was done, for tables.
        answers: Measurements of the behaviour: generated answers, or rows' losses in a run without triggers.
        work: Does it and leaves the target as it was; told where progress goes.
        steps: Training steps that it takes.
        reads: Rows that it reads besides, and answers nothing to.
    """

    series: str
    effort: float
    label: str
    answers: int
    work: Callable[[Progress | None], list[Outcome]]
    steps: int = 0
    reads: int = 0
