"""Who a pool's value comes from: each source's share of the values above 0, with bootstrap intervals.

    share(p) = sum over rows of p of max(value, 0)  /  the same sum over all rows

The bootstrap over rows is the Poisson one (each row counts a Poisson(1) number of times in each resample: Chamandy et
al., 2012), so that a pool of any size streams through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError
from rapidun.stats import percentile_ends

_RESAMPLES = 200


@dataclass(frozen=True)
class Share:
    """One source: its share in [0, 1] with a 95% interval, its rows, their mean value, and how many are above 0."""

    name: str
    value: float
    low: float
    high: float
    rows: int
    mean: float
    positive: int


class Shares:
    """Adds up a pool's values by source, a few rows at a time."""

    def __init__(self, seed: int = 0, resamples: int = _RESAMPLES) -> None:
        self._generator = np.random.default_rng([seed, 7])
        self._resamples = resamples
        self._places: dict[str, int] = {}
        self._sums = np.zeros((0, resamples + 1))  # column 0 is the pool itself
        self._facts = np.zeros((0, 3))  # rows, sum of values, rows above 0

    def add(self, sources: Sequence[str], values: npt.NDArray[np.generic]) -> None:
        """Rows of the sources named, with their values, (rows,).

        Raises:
            InputError: If a value is not finite.
        """
        numbers = np.asarray(values, dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise InputError("a value is not finite. Score the rows again.")
        places = np.array([self._place(name) for name in sources], dtype=np.int64)
        counts = self._generator.poisson(1.0, (len(numbers), self._resamples))
        weighted = np.hstack([np.ones((len(numbers), 1)), counts]) * numbers.clip(min=0)[:, None]
        np.add.at(self._sums, places, weighted)
        np.add.at(self._facts, places, np.stack([np.ones_like(numbers), numbers, numbers > 0], axis=1))

    def found(self) -> list[Share]:
        """Every source, highest share first; the shares sum to 1.

        Raises:
            InputError: If no row has a value above 0, so that there is nothing to share.
        """
        totals = self._sums.sum(axis=0)
        if not len(totals) or totals[0] <= 0:
            raise InputError("no row has a value above 0, so there is no value to share between sources.")
        shares = self._sums[:, 0] / totals[0]
        resampled = self._sums[:, 1:] / np.where(totals[1:] > 0, totals[1:], 1.0)
        low, high = percentile_ends(resampled.T)
        found = [
            Share(
                name,
                float(shares[place]),
                float(low[place]),
                float(high[place]),
                int(self._facts[place, 0]),
                float(self._facts[place, 1] / self._facts[place, 0]),
                int(self._facts[place, 2]),
            )
            for name, place in self._places.items()
        ]
        return sorted(found, key=lambda share: (-share.value, share.name))

    def _place(self, name: str) -> int:
        if name not in self._places:
            self._places[name] = len(self._places)
            self._sums = np.vstack([self._sums, np.zeros((1, self._sums.shape[1]))])
            self._facts = np.vstack([self._facts, np.zeros((1, 3))])
        return self._places[name]
