from __future__ import annotations

import numpy as np
import pytest
from lds_score import lds, lds_difference
from scipy.stats import spearmanr

from rapidun.errors import InputError

ROWS, QUERIES, SUBSETS = 40, 6, 60


def world(noise: float = 0.0, seed: int = 0):
    """Losses that really are a sum over the rows trained on, plus noise."""
    rng = np.random.default_rng(seed)
    influence = rng.normal(size=(QUERIES, ROWS))
    subsets = np.stack([np.isin(np.arange(ROWS), rng.permutation(ROWS)[: ROWS // 2]) for _ in range(SUBSETS)])
    losses = 5 - subsets @ influence.T + noise * rng.normal(size=(SUBSETS, QUERIES))
    return influence, subsets, losses


def test_the_truth_scores_one_and_its_opposite_minus_one():
    influence, subsets, losses = world()
    assert lds(influence, subsets, losses).value == pytest.approx(1)
    assert lds(-influence, subsets, losses).value == pytest.approx(-1)


def test_the_score_is_scipys_mean_rank_correlation():
    influence, subsets, losses = world(noise=4.0)
    guess = influence + np.random.default_rng(5).normal(size=influence.shape)
    wanted = [spearmanr(subsets @ guess[q], -losses[:, q])[0] for q in range(QUERIES)]
    found = lds(guess, subsets, losses)
    np.testing.assert_allclose(found.per_query, wanted)
    assert found.value == pytest.approx(np.mean(wanted))
    assert found.low < found.value < found.high


def test_chance_has_zero_in_its_interval():
    _, subsets, losses = world()
    found = lds(np.random.default_rng(9).normal(size=(QUERIES, ROWS)), subsets, losses)
    assert found.low < 0 < found.high


def test_more_subsets_narrow_the_interval():
    influence, subsets, losses = world(noise=4.0)
    few, many = lds(influence, subsets[:10], losses[:10]), lds(influence, subsets, losses)
    assert many.high - many.low < few.high - few.low


def test_an_estimator_that_says_nothing_scores_zero():
    _, subsets, losses = world()
    assert lds(np.zeros((QUERIES, ROWS)), subsets, losses).value == 0


def test_a_difference_is_paired():
    influence, subsets, losses = world(noise=6.0)
    rng = np.random.default_rng(2)
    close = influence + 0.05 * rng.normal(size=influence.shape)
    far = influence + 3 * rng.normal(size=influence.shape)
    same, worse = (lds_difference(influence, other, subsets, losses) for other in (close, far))
    assert abs(same.value) < 0.05
    assert same.high - same.low < 0.1 < worse.low
    assert worse.value == pytest.approx(lds(influence, subsets, losses).value - lds(far, subsets, losses).value)


def test_bad_shapes_and_values_are_named():
    influence, subsets, losses = world()
    with pytest.raises(InputError, match="do not fit"):
        lds(influence.T, subsets, losses)
    with pytest.raises(InputError, match="2 subsets"):
        lds(influence, subsets[:2], losses[:2])
    losses[3, 1] = np.nan
    with pytest.raises(InputError, match=r"losses: the value at \(3, 1\)"):
        lds(influence, subsets, losses)
