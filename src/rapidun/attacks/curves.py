"""Behaviour recovered against effort: points with exact intervals, one curve a series.

A point keeps the value of every prompt (or forget row), in the order in which they were asked, so that two models
can be compared prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.attacks.trial import Outcome, Trial
from rapidun.stats import Rate, bootstrap

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Point:
    """Behaviour recovered at one effort.

    Args:
        series: The curve that it is on.
        effort: In the attack's unit.
        label: What was done.
        measure: ``attack success``, ``leak@k``, ``probability`` or ``AUC``.
        value: In [0, 1].
        low: Lower end of the 95% interval: Clopper-Pearson's for rates, of a bootstrap over prompts or rows otherwise.
        high: Its upper end.
        values: (n,) float64 in [0, 1], one for each prompt or forget row.
        losses: (n,) nats of each forget row where probability is measured; None otherwise.
        tokens: (n,) its answer tokens; None likewise.
        others: (m,) float64 in [0, 1] of the rows that forget rows are told from, where that is measured; else None.
    """

    series: str
    effort: float
    label: str
    measure: str
    value: float
    low: float
    high: float
    values: Values
    losses: Values | None = None
    tokens: npt.NDArray[np.int64] | None = None
    others: Values | None = None

    @property
    def n(self) -> int:
        """Prompts or rows."""
        return len(self.values)

    @property
    def unit(self) -> str:
        """What these are."""
        return "prompts" if self.measure in ("attack success", "leak@k") else "rows"

    def to_dict(self) -> dict[str, Any]:
        """``{"value", "low", "high", "n"}``, and ``"loss"``, nats per answer token, where it was measured."""
        found: dict[str, Any] = {"value": self.value, "low": self.low, "high": self.high, "n": self.n}
        if self.losses is not None and self.tokens is not None:
            found["loss"] = float(self.losses.sum() / max(int(self.tokens.sum()), 1))
        return found


@dataclass(frozen=True)
class Curve:
    """Points of one series, by rising effort."""

    series: str
    points: Sequence[Point]


def rate_points(trial: Trial, outcomes: Sequence[Outcome]) -> list[Point]:
    """One point: the share of poisoned answers, or the forget rows' mean probability."""
    if "poisoned" in outcomes[0]:
        flags = [bool(outcome["poisoned"]) for outcome in outcomes]
        rate = Rate.from_flags(flags)
        values = np.array(flags, dtype=np.float64)
        return [
            Point(trial.series, trial.effort, trial.label, "attack success", rate.value, rate.low, rate.high, values)
        ]
    losses = np.array([outcome["loss"] for outcome in outcomes])
    tokens = np.array([outcome["tokens"] for outcome in outcomes], dtype=np.int64)
    values = np.exp(-losses / np.maximum(tokens, 1))
    ends = mean_interval(values)
    return [Point(trial.series, trial.effort, trial.label, "probability", *ends, values, losses, tokens)]


def mean_interval(values: Values) -> tuple[float, float, float]:
    """The mean of values in [0, 1] with its interval; flags get the exact one of a rate."""
    if set(np.unique(values).tolist()) <= {0.0, 1.0}:
        rate = Rate.from_counts(int(values.sum()), len(values))
        return rate.value, rate.low, rate.high
    found = bootstrap(np.mean, values, unit="prompts")
    return found.value, found.low if found.low is not None else 0.0, found.high if found.high is not None else 1.0


def curves_of(points: Sequence[Point]) -> list[Curve]:
    """Points by their series, in the order in which these come."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.series, []).append(point)
    return [Curve(series, sorted(each, key=lambda point: point.effort)) for series, each in found.items()]
