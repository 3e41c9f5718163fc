"""Exact binomial intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rapidun.errors import InputError
from rapidun.evaluation import Rate


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Closed forms at the ends; the middle ones are textbook values.
        (0, 10, 0.0, 1 - 0.025 ** (1 / 10)),
        (10, 10, 0.025 ** (1 / 10), 1.0),
        (5, 10, 0.187086, 0.812914),
        (1, 100, 0.000253, 0.054459),
        (4, 20, 0.057334, 0.436614),
    ],
)
def test_clopper_pearson_golden_numbers(hits: int, n: int, low: float, high: float) -> None:
    rate = Rate.from_counts(hits, n)
    assert (rate.value, rate.n) == (hits / n, n)
    assert rate.low == pytest.approx(low, abs=1e-6)
    assert rate.high == pytest.approx(high, abs=1e-6)


def test_the_interval_inverts_the_binomial_tails() -> None:
    rate = Rate.from_counts(7, 30)
    at_least = sum(math.comb(30, k) * rate.low**k * (1 - rate.low) ** (30 - k) for k in range(7, 31))
    at_most = sum(math.comb(30, k) * rate.high**k * (1 - rate.high) ** (30 - k) for k in range(8))
    assert at_least == pytest.approx(0.025)
    assert at_most == pytest.approx(0.025)


def test_flags_and_dictionaries() -> None:
    rate = Rate.from_flags(np.array([True, False, True, False]))
    assert rate == Rate.from_counts(2, 4)
    assert list(rate.to_dict()) == ["value", "low", "high", "n"]
    assert Rate.from_dict(rate.to_dict()) == rate


def test_no_answers_give_no_rate() -> None:
    with pytest.raises(InputError, match="at least one answer"):
        Rate.from_counts(0, 0)
    with pytest.raises(ValueError, match="5 hits of 4"):
        Rate.from_counts(5, 4)
