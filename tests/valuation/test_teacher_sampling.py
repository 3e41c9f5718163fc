"""The teacher's sample: its size, its spread over lengths, and where a committee sends it."""

from __future__ import annotations

import numpy as np
import pytest

from rapidun.errors import ConfigError
from rapidun.valuation.sampling import (
    random_sample,
    round_sizes,
    sample_size,
    stratified_sample,
    uncertain_sample,
)


def generator(seed=0):
    return np.random.default_rng(seed)


def test_sizes_are_shares_or_numbers():
    assert [sample_size(text, 1000) for text in ("5%", "500", "0.05%", "100%")] == [50, 500, 1, 1000]
    assert sample_size("7%", 100) == 7  # not 8: 0.07 * 100 is 7.000000000000001


@pytest.mark.parametrize("text", ["0", "0%", "-5", "1001", "101%", "half", "%", "nan%", "inf%", "2.5"])
def test_sizes_that_cannot_be_are_refused(text):
    with pytest.raises(ConfigError, match="--sample"):
        sample_size(text, 1000)


def test_a_random_sample_has_no_row_twice():
    found = random_sample(50, 30, generator())
    assert len(set(found.tolist())) == 30
    assert (np.diff(found) > 0).all()
    assert not np.array_equal(found, random_sample(50, 30, generator(1)))


def test_a_stratified_sample_has_one_row_of_each_stratum_of_lengths():
    lengths = generator().permutation(1000)
    found = stratified_sample(lengths, 40, generator(3))
    assert sorted(lengths[found] // 25) == list(range(40))
    spread = [np.mean(lengths[stratified_sample(lengths, 40, generator(seed))]) for seed in range(50)]
    loose = [np.mean(lengths[random_sample(1000, 40, generator(seed))]) for seed in range(50)]
    assert np.std(spread) < np.std(loose) / 5


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_small_pools_and_equal_lengths_work(count):
    assert len(set(stratified_sample(np.ones(8), count, generator()).tolist())) == count


def test_an_uncertain_sample_goes_where_the_committee_disagrees_and_never_back():
    disagreement = np.where(np.arange(100) < 20, 1.0, 0.01)
    taken = np.arange(5)
    found = uncertain_sample(disagreement, 15, taken, generator())
    assert not set(found) & set(taken)
    assert (found < 20).sum() >= 11
    assert len(set(uncertain_sample(np.zeros(100), 95, taken, generator()).tolist())) == 95


def test_rounds_add_up():
    assert round_sizes(10, 4) == [3, 3, 2, 2]
    assert round_sizes(2, 4) == [1, 1]
