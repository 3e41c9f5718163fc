"""Membership scores, their AUC with its interval, and PrivLeak."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from rapidun.evaluation import (
    membership_auc,
    min_k,
    min_k_plus_plus,
    privleak,
    reference_ratio,
    zlib_ratio,
)
from rapidun.stats import area_under_curve

SCORES = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=9)


@pytest.mark.parametrize("metric", [min_k, min_k_plus_plus])
def test_the_mean_of_the_lowest_by_hand(metric) -> None:
    row = [-1.0, -5.0, -2.0, -4.0, -3.0]
    assert metric([row]).tolist() == [-5.0]  # a fifth of five
    assert metric([row], 0.4).tolist() == [-4.5]
    assert metric([row], 0.59).tolist() == [-4.5]  # rounded down
    assert metric([row], 0.01).tolist() == [-5.0]  # at least one
    assert metric([row], 1.0).tolist() == [-3.0]


@given(
    rows=st.lists(st.lists(st.floats(-50, 0), min_size=1, max_size=20), min_size=1, max_size=4),
    percent=st.integers(1, 100),
)
def test_min_k_is_the_naive_mean(rows: list[list[float]], percent: int) -> None:
    counts = [max(1, percent * len(row) // 100) for row in rows]  # in whole numbers: 0.29 * 100 is 28.999...
    expected = [sum(sorted(row)[:count]) / count for row, count in zip(rows, counts, strict=True)]
    assert min_k(rows, percent / 100) == pytest.approx(expected)


@given(row=st.lists(st.floats(-50, 0), min_size=1, max_size=20))
def test_all_tokens_are_minus_the_mean_loss(row: list[float]) -> None:
    assert min_k([row], 1.0)[0] == pytest.approx(np.mean(row))


def test_ties_impossible_tokens_and_rows_without_tokens() -> None:
    found = min_k([[-2.0, -2.0, -2.0], [-math.inf, 0.0], []], 0.5)
    assert found[:2].tolist() == [-2.0, -math.inf]
    assert math.isnan(found[2])


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, math.nan])
def test_a_share_of_no_tokens_or_of_more_than_all_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        min_k([[-1.0]], share)


def test_zlib_ratio_is_loss_over_compressed_bytes() -> None:
    texts = ["the cat sat on the mat", "aaaa" * 50, "Überfluß 猫"]
    expected = [loss / len(zlib.compress(text.encode())) for loss, text in zip([2.0, 2.0, 3.0], texts, strict=True)]
    assert zlib_ratio([2.0, 2.0, 3.0], texts) == pytest.approx(expected)
    assert zlib_ratio([2.0], ["ab" * 200]) > zlib_ratio([2.0], ["q8Zk2mWx" * 1 + "7Jf0aLr5" + "PzN4eYc9" + "Tt1uVbH6"])
    with pytest.raises(ValueError, match="texts"):
        zlib_ratio([1.0], ["a", "b"])


def test_reference_ratio_by_hand() -> None:
    found = reference_ratio([1.0, 2.0, 0.0, 1.0, 0.0], [2.0, 1.0, 3.0, 0.0, 0.0])
    assert found[:4].tolist() == [0.5, 2.0, 0.0, math.inf]
    assert math.isnan(found[4])
    with pytest.raises(ValueError, match="reference"):
        reference_ratio([1.0, 2.0], [1.0])


@given(members=SCORES, others=SCORES)
def test_the_auc_counts_pairs_with_ties_as_halves(members: list[float], others: list[float]) -> None:
    won = sum((a > b) + 0.5 * (a == b) for a in members for b in others)
    found = membership_auc(members, others)
    assert found == pytest.approx(won / len(members) / len(others))
    assert found == pytest.approx(1 - membership_auc(others, members))
    assert found == pytest.approx(mannwhitneyu(members, others).statistic / len(members) / len(others))


def test_the_auc_takes_infinite_scores_and_single_rows() -> None:
    assert membership_auc([math.inf], [1.0, math.inf]) == pytest.approx(0.75)
    assert membership_auc([-math.inf], [0.0]) == 0.0


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_an_auc_of_nothing_is_refused(members: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match="scores"):
        membership_auc(members, others)


def test_the_aucs_interval_solves_its_equation() -> None:
    """Newcombe's method 5: both ends lie 1.96 of their own standard errors away."""
    found = area_under_curve(0.8, 30, 20)
    for end in (found.low, found.high):
        extra = 25 - 1
        spread = end * (1 - end) * (1 + extra * (1 - end) / (2 - end) + extra * end / (1 + end)) / 600
        assert abs(end - 0.8) / math.sqrt(spread) == pytest.approx(1.959964, rel=1e-5)
    assert (found.n, found.unit) == (50, "rows")


@pytest.mark.parametrize(("value", "ends"), [(1.0, (0, 1)), (0.0, (0, 1))])
def test_groups_that_are_wholly_apart_are_not_so_for_certain(value: float, ends: tuple[int, int]) -> None:
    few, many = area_under_curve(value, 5, 5), area_under_curve(value, 200, 200)
    for found in (few, many):
        assert ends[0] <= found.low <= found.value <= found.high <= ends[1]
    assert few.high - few.low > 0.2
    assert many.high - many.low < 0.05


def test_the_aucs_interval_covers_the_true_one() -> None:
    rng = np.random.default_rng(0)
    true, covered, tries = 0.75, 0, 400
    from scipy.stats import norm

    shift = math.sqrt(2) * norm.ppf(true)
    for _ in range(tries):
        value = membership_auc(rng.normal(shift, 1, 25), rng.normal(0, 1, 40))
        found = area_under_curve(value, 25, 40)
        covered += found.low <= true <= found.high
    assert 0.92 <= covered / tries <= 0.99


def test_privleak_by_hand() -> None:
    assert privleak(0.5) == 0.0
    assert privleak(0.0) == -1.0  # by MUSE's AUC: every forget row is known
    assert privleak(1.0) == 1.0
    assert privleak(0.3, 0.6) == pytest.approx(-0.5)
    assert privleak(0.4, 0.0) == math.inf
    assert privleak(0.0, 0.0) == 0.0
    for bad in ((1.1, 0.5), (0.5, -0.1), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="AUC"):
            privleak(*bad)
