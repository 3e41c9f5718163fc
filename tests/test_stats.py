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
    mean_ranks,
    over_units,
    paired,
    pareto,
    percentile_ends,
    wins,
)


def test_paired_tests_are_scipys_on_the_shared_blocks() -> None:
    rng = np.random.default_rng(0)
    ours = {("main", seed): float(value) for seed, value in enumerate(rng.random(6))}
    theirs = {("main", seed): float(value) for seed, value in enumerate(rng.random(5))}
    theirs["small", 0] = 9.0
    found = paired(ours, theirs)
    assert found is not None
    one, other = (np.array([each["main", seed] for seed in range(5)]) for each in (ours, theirs))
    test = stats.ttest_rel(one, other)
    assert found.t_test == pytest.approx(test.pvalue)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(one, other).pvalue)
    interval = test.confidence_interval(0.95)
    difference = found.difference
    assert (difference.value, difference.low, difference.high) == pytest.approx(
        ((one - other).mean(), interval.low, interval.high)
    )
    assert (difference.n, difference.unit) == (5, "draws")


def test_draws_of_several_scenarios_count_once_a_scenario() -> None:
    """Forty draws that agree within eight scenarios are eight units: their p-value is that of eight differences."""
    rng = np.random.default_rng(1)
    shift = {f"scenario {number}": float(shift) for number, shift in enumerate(rng.normal(0.5, 0.3, 8))}
    theirs = {(name, seed): 1.0 for name in shift for seed in range(5)}
    ours = {block: 1.0 - shift[block[0]] for block in theirs}
    found, won = paired(ours, theirs), wins(ours, theirs)
    assert found is not None
    assert won is not None
    expected = [-value for value in shift.values()]
    assert (found.difference.n, found.difference.unit, won.n, won.unit) == (8, "scenarios", 8, "scenarios")
    assert found.t_test == pytest.approx(stats.ttest_1samp(expected, 0).pvalue)
    assert won.wilcoxon == pytest.approx(stats.wilcoxon(expected).pvalue)
    assert won.won + won.lost == 40


def test_no_test_is_made_up_where_there_is_nothing_to_test() -> None:
    assert paired({("main", 0): 1.0}, {("main", 1): 1.0}) is None
    single = paired({("main", 0): 1.0}, {("main", 0): 3.0})
    assert single is not None
    assert single.difference == Interval(-2.0, None, None, 1, "draws")
    assert (single.t_test, single.wilcoxon) == (None, None)
    same = {("main", seed): 0.5 for seed in range(4)}
    equal = paired(same, same)
    assert equal is not None
    assert (equal.t_test, equal.wilcoxon) == (None, None)
    broken = paired({**same, ("main", 9): math.inf}, {**same, ("main", 9): 0.0})
    assert broken is not None
    assert broken.difference.n == 4


def test_a_failed_training_counts_as_the_worst_of_all() -> None:
    theirs = {("main", seed): float(seed) for seed in range(6)}
    ours = {**{block: value - 0.5 for block, value in theirs.items()}, ("main", 9): 0.0}
    found = wins(ours, {**theirs, ("main", 0): math.inf})
    assert found is not None
    assert (found.won, found.tied, found.lost) == (6, 0, 0)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon([-9.0, -0.5, -0.5, -0.5, -0.5, -0.5]).pvalue)
    lost = wins({("main", 0): math.inf, ("main", 1): math.inf}, {("main", 0): 1.0, ("main", 1): math.inf})
    assert lost is not None
    assert (lost.won, lost.tied, lost.lost) == (0, 1, 1)
    equal = wins(theirs, theirs)
    assert equal is not None
    assert equal.wilcoxon is None
    assert wins(theirs, {}) is None


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


def test_ranks_use_only_blocks_in_which_every_arm_has_a_value_and_ties_share() -> None:
    values = {
        "a": {("main", 0): 0.1, ("main", 1): 0.2, ("small", 0): 0.0},
        "b": {("main", 0): 0.1, ("main", 1): math.inf, ("small", 1): 0.0},
        "c": {("main", 0): 0.5, ("main", 1): 0.1},
    }
    found = mean_ranks(values, "abc")
    assert found.ranks == {"a": (1.5 + 2) / 2, "b": (1.5 + 3) / 2, "c": (3 + 1) / 2}
    assert (found.blocks, found.by_scenario) == (2, {"main": 2})
    assert mean_ranks(values, "abcd").blocks == 0


def test_the_pareto_front_keeps_what_nothing_beats() -> None:
    assert pareto({"a": (0.0, 3.0), "b": (1.0, 1.0), "c": (1.0, 2.0), "d": (2.0, 2.0), "e": (0.0, 3.0)}) == {
        "a",
        "b",
        "e",
    }


def test_samples_of_different_units_are_resampled_each_on_its_own() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.normal(3, 2, 400), rng.normal(0, 1, 90)
    found = bootstrap_strata(lambda a, b: float(a.mean() - b.mean()), one, other, unit="rows")
    half = 1.96 * math.sqrt(one.var() / 400 + other.var() / 90)  # variances add, as those of independent samples do
    assert found.value == pytest.approx(one.mean() - other.mean())
    assert (found.n, found.unit) == (490, "rows")
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert bootstrap_strata(lambda a, b: float(a.mean() - b.mean()), one, other[:1], unit="rows").low is None
