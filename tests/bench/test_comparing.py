"""Ranks, paired tests and wins of a table's arms against SciPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from experiments.comparing import mean_ranks, paired, pareto, wins
from rapidun.stats import Interval


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
