"""Intervals, ranks and paired tests against SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rapidun.stats import (
    RATE,
    Interval,
    bootstrap,
    bootstrap_strata,
    over_units,
    percentile_ends,
)


def test_interval_over_seeds_is_students() -> None:
    values = [0.1, 0.4, 0.2]
    found = over_units(values, "seeds")
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert found is not None
    assert (found.value, found.low, found.high, found.n) == pytest.approx((np.mean(values), low, high, 3))
    assert found.unit == "seeds"
    assert over_units([], "seeds") is None


def test_no_interval_stands_around_one_measurement_or_the_same_one_repeated() -> None:
    assert over_units([0.3], "models") == Interval(0.3, None, None, 1, "models")
    assert over_units([0.909375] * 5, "models") == Interval(0.909375, None, None, 5, "models")
    assert bootstrap(np.mean, np.array([2.0]), unit="queries") == Interval(2.0, None, None, 1, "queries")


def test_an_interval_of_a_rate_ends_where_rates_end() -> None:
    low, high = over_units([0.0, 0.0, 0.02], "seeds", RATE), over_units([1.0, 1.0, 0.9], "seeds", RATE)
    assert low is not None
    assert high is not None
    assert low.low == 0.0 < low.value < low.high
    assert high.low < high.value < high.high == 1.0


def test_intervals_cover_the_truth_at_their_stated_rate() -> None:
    """95% means 95%: an interval made from the wrong quantiles covers too often or too seldom."""
    rng, tries = np.random.default_rng(2), 400
    by_t = [over_units(rng.normal(size=5).tolist(), "seeds") for _ in range(tries)]
    drawn = rng.normal(size=(tries, 60))
    by_bootstrap = [bootstrap(np.mean, rows, unit="rows", seed=i, resamples=200) for i, rows in enumerate(drawn)]
    for found in (by_t, by_bootstrap):
        covered = np.mean([each.low <= 0 <= each.high for each in found])
        assert 0.91 < covered < 0.98


def test_a_bootstrap_draws_the_same_units_of_every_sample() -> None:
    first = np.random.default_rng(3).normal(size=300)
    found = bootstrap(lambda a, b: float((a - b).mean()), first, first + 1.0, unit="rows")
    assert (found.low, found.high) == pytest.approx((-1.0, -1.0))
    by_hand = first[np.random.default_rng(7).integers(0, 300, (2000, 300))].mean(axis=1)
    again = bootstrap(np.mean, first, unit="rows", seed=7)
    assert (again.low, again.high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))
    assert (again.n, again.unit) == (300, "rows")


def test_percentile_ends_leave_a_fortieth_on_each_side() -> None:
    low, high = percentile_ends(np.stack([np.linspace(0, 1, 4001), np.linspace(0, 2, 4001)], axis=1))
    np.testing.assert_allclose([low, high], [[0.025, 0.05], [0.975, 1.95]])


def test_a_number_is_written_with_its_interval_where_it_has_one() -> None:
    assert Interval(0.1234, 0.1, 0.2, 3, "seeds").text() == "0.123 [0.100, 0.200]"
    assert Interval(-0.5, -0.75, 0.25, 3, "seeds").text(2, "+") == "-0.50 [-0.75, +0.25]"
    assert Interval(0.5, None, None, 1, "models").text(1) == "0.5"


def test_samples_of_different_units_are_resampled_each_on_its_own() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.normal(3, 2, 400), rng.normal(0, 1, 90)
    found = bootstrap_strata(lambda a, b: float(a.mean() - b.mean()), one, other, unit="rows")
    half = 1.96 * math.sqrt(one.var() / 400 + other.var() / 90)  # variances add, as those of independent samples do
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert (found.n, found.unit) == (490, "rows")
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert bootstrap_strata(lambda a, b: float(a.mean() - b.mean()), one, other[:1], unit="rows").low is None
