"""Rank correlation, NDCG and calibration against references and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score

from rapidun.errors import InputError
from rapidun.valuation.fidelity import calibration, ndcg, over_rows, slope, spearman


def noisy(count=200, noise=1.0, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=count)
    return truth + noise * generator.normal(size=count), truth


def test_spearman_is_scipys_also_with_ties():
    one, other = noisy()
    assert spearman(one.round(), other.round()) == pytest.approx(spearmanr(one.round(), other.round()).statistic)
    assert spearman(np.zeros(5), np.arange(5)) == 0


def test_ndcg_is_sklearns_with_gains_above_zero_and_ties_shared():
    guess, truth = noisy()
    for k in (None, 5, 50):
        expected = ndcg_score(truth.clip(min=0)[None], guess.round(1)[None], k=k)
        assert ndcg(guess.round(1), truth, k) == pytest.approx(expected)
    assert ndcg(np.arange(3), -np.ones(3)) == 1


def test_the_interval_holds_the_value_and_narrows_with_rows():
    few, many = (over_rows(spearman, *noisy(count)) for count in (40, 2000))
    assert few.low < few.value < few.high
    assert many.high - many.low < (few.high - few.low) / 3


def test_calibration_follows_the_diagonal_only_where_predictions_are_calibrated():
    truth = np.random.default_rng(1).normal(size=1000)
    inside = [found.low <= found.predicted <= found.high for found in calibration(truth, truth)]
    assert all(inside)
    assert slope(truth, truth) == pytest.approx(1)
    overconfident = calibration(3 * truth, truth)
    assert not any(found.low <= found.predicted <= found.high for found in (overconfident[0], overconfident[-1]))
    assert slope(3 * truth, truth) == pytest.approx(1 / 3)
    assert sum(found.n for found in calibration(truth[:7], truth[:7])) == 7


def test_values_that_are_not_finite_or_do_not_fit_are_refused():
    with pytest.raises(InputError, match="not finite"):
        spearman(np.array([1, np.nan]), np.array([1, 2]))
    with pytest.raises(InputError, match=r"\(2,\) and \(3,\)"):
        spearman(np.ones(2), np.ones(3))
