"""Intervals, ranks and paired tests against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rapidun.bench.sitting import by_family, label_auc
from rapidun.bench.statistics import mean_interval, mean_ranks, paired, pareto, wins
from rapidun.weighting import Weights


def test_paired_tests_are_scipys_on_the_shared_blocks() -> None:
    rng = np.random.default_rng(0)
    ours = {("main", seed): float(value) for seed, value in enumerate(rng.random(6))}
    theirs = {("main", seed): float(value) for seed, value in enumerate(rng.random(5))}
    theirs["small", 0] = 9.0
    found = paired(ours, theirs)
    assert found is not None
    one, other = (np.array([each["main", seed] for seed in range(5)]) for each in (ours, theirs))
    test = stats.ttest_rel(one, other)
    assert (found.n, found.t_test) == (5, pytest.approx(test.pvalue))
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(one, other).pvalue)
    interval = test.confidence_interval(0.95)
    assert (found.difference, found.low, found.high) == pytest.approx(
        ((one - other).mean(), interval.low, interval.high)
    )


def test_no_test_is_made_up_where_there_is_nothing_to_test() -> None:
    assert paired({("main", 0): 1.0}, {("main", 1): 1.0}) is None
    single = paired({("main", 0): 1.0}, {("main", 0): 3.0})
    assert single is not None
    assert (single.difference, single.low, single.t_test, single.n) == (-2.0, None, None, 1)
    same = {("main", seed): 0.5 for seed in range(4)}
    equal = paired(same, same)
    assert equal is not None
    assert (equal.t_test, equal.wilcoxon) == (None, None)
    broken = paired({**same, ("main", 9): math.inf}, {**same, ("main", 9): 0.0})
    assert broken is not None
    assert broken.n == 4


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
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert found is not None
    assert (found.value, found.low, found.high, found.n) == pytest.approx((np.mean(values), low, high, 3))
    assert mean_interval([]) is None


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


def test_auc_is_of_true_rows_above_mislabelled_ones() -> None:
    weights = Weights(np.array([3.0, 2.0, 1.0, 0.5]), np.ones(2), np.zeros(4), np.zeros(2))
    assert label_auc(weights, [False, False, True, True]) == 1.0
    assert label_auc(weights, [True, False, False, True]) == 0.5
    assert label_auc(weights, [False] * 4) is None


def test_families_have_their_own_rates() -> None:
    keys = ("family", "condition", "poisoned")
    found = by_family([dict(zip(keys, line, strict=True)) for line in (
        ("A", "seen", True), ("A", "seen", False), ("B", "seen", True), ("A", "unseen", False), ("", "none", True)
    )])  # fmt: skip
    assert found == {"A": {"seen": 0.5, "unseen": 0.0}, "B": {"seen": 1.0}}
