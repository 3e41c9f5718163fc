"""Shares of value by source: they sum to one, and their intervals are those of a bootstrap over rows."""

from __future__ import annotations

import numpy as np
import pytest

from rapidun.errors import InputError
from rapidun.valuation import Shares


def pool(count=900, seed=0):
    generator = np.random.default_rng(seed)
    names = generator.choice(["north", "south", "void"], count, p=[0.5, 0.3, 0.2])
    values = generator.normal(0.2, 1, count)
    return names, np.where(names == "void", -1.0, values)


def shares_of(names, values, part=1000, **settings):
    found = Shares(**settings)
    for start in range(0, len(names), part):
        found.add(list(names[start : start + part]), values[start : start + part])
    return {share.name: share for share in found.found()}


def test_shares_are_of_what_is_above_zero_and_sum_to_one():
    names, values = pool()
    found = shares_of(names, values)
    assert sum(share.value for share in found.values()) == pytest.approx(1)
    above = values.clip(min=0)
    assert found["north"].value == pytest.approx(above[names == "north"].sum() / above.sum())
    assert (found["void"].value, found["void"].high, found["void"].positive) == (0, 0, 0)
    assert found["south"].rows == (names == "south").sum()
    assert found["south"].mean == pytest.approx(values[names == "south"].mean())
    assert list(found) == ["north", "south", "void"]


def test_intervals_are_those_of_a_plain_bootstrap():
    names, values = pool()
    above, generator = values.clip(min=0), np.random.default_rng(4)
    drawn = []
    for _ in range(600):
        pick = generator.integers(0, len(values), len(values))
        drawn.append(above[pick][names[pick] == "north"].sum() / above[pick].sum())
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = shares_of(names, values, resamples=600)["north"]
    assert (found.low, found.high) == (pytest.approx(low, abs=0.008), pytest.approx(high, abs=0.008))


def test_a_pool_may_come_in_pieces_and_the_seed_decides():
    names, values = pool()
    whole, pieces = shares_of(names, values), shares_of(names, values, part=64)
    assert pieces["north"].value == pytest.approx(whole["north"].value)
    assert pieces["north"].low == pytest.approx(whole["north"].low, abs=0.01)
    assert shares_of(names, values) == whole
    assert shares_of(names, values, seed=1) != whole


def test_a_pool_without_value_has_no_shares():
    with pytest.raises(InputError, match="no row has a value above 0"):
        shares_of(np.array(["a", "b"]), np.array([-1.0, 0.0]))
    with pytest.raises(InputError, match="not finite"):
        shares_of(np.array(["a"]), np.array([np.nan]))
