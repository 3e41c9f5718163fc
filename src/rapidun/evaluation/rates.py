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
        """Clopper-Pearson: the quantiles of ``Beta(hits, n - hits + 1)`` and ``Beta(hits + 1, n - hits)``.

        Exact for independent answers: its coverage is at least ``confidence`` for every true rate.

        Raises:
            InputError: If ``n`` is 0.
            ValueError: If ``hits`` is not in 0..n.
        """
        from scipy.stats import beta

        if n == 0:
            raise InputError("a rate needs at least one answer, and there is none. Are the evaluation rows empty?")
        if not 0 <= hits <= n:
            raise ValueError(f"{hits} hits of {n} answers")
        tail = (1 - confidence) / 2
        low = float(beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
        high = float(beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
        return cls(hits / n, low, high, n)

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
