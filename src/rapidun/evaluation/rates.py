"""A share of answers with its exact confidence interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError


@dataclass(frozen=True)
class Rate:
    """``value`` of ``n`` answers, in [0, 1], with the two-sided 95% interval [``low``, ``high``]."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def from_counts(cls, hits: int, n: int, confidence: float = 0.95) -> Rate:
        """Clopper-Pearson (Biometrika 1934): the rates at which so many hits, or so few, are just plausible.

        Exact for independent answers: its coverage is at least ``confidence`` for every true rate.

        Raises:
            InputError: If ``n`` is 0.
            ValueError: If ``hits`` is not in 0..n.
        """
        from scipy.stats import binomtest

        if n == 0:
            raise InputError("a rate needs at least one answer, and there is none. Are the evaluation rows empty?")
        if not 0 <= hits <= n:
            raise ValueError(f"{hits} hits of {n} answers")
        interval = binomtest(hits, n).proportion_ci(confidence, method="exact")
        return cls(hits / n, float(interval.low), float(interval.high), n)

    @classmethod
    def from_flags(cls, flags: npt.NDArray[np.bool_] | list[bool]) -> Rate:
        """The share of true flags."""
        return cls.from_counts(int(np.sum(flags)), len(flags))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Rate:
        """What `to_dict` gave."""
        return cls(float(value["value"]), float(value["low"]), float(value["high"]), int(value["n"]))

    def to_dict(self) -> dict[str, Any]:
        """``{"value", "low", "high", "n"}``."""
        return asdict(self)
