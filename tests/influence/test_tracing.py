"""Tracing finds the same rows as sorting everything would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidun.attribution import trace
from rapidun.errors import ConfigError, InputError


def ids(n):
    return [f"row-{i}" for i in range(n)]


def brute_force(scores, k):
    """Positions of the k highest, earlier position first among equals."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(1, 90),
    st.sampled_from(["cosine", "dot"]),
)
def test_hits_equal_brute_force_for_any_block_size(seed, queries, rows, k, block, similarity):
    generator = np.random.default_rng(seed)
    dimensions = 4
    # small integers: sums are exact in float32, and ties are frequent
    query = generator.integers(-2, 3, (queries, dimensions)).astype(np.float32)
    train = generator.integers(-2, 3, (rows, dimensions)).astype(np.float32)
    if similarity == "cosine":  # one non-zero value a row keeps cosines exact as well
        query, train = (v * (np.arange(4) == generator.integers(0, 4, (len(v), 1))) for v in (query, train))
        scores = np.sign(query) @ np.sign(train).T
    else:
        scores = query @ train.T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rapidun.attribution.tracing._BLOCK_VALUES", block * dimensions)
        found = trace(query, train, ids(rows), k, similarity=similarity)
    assert len(found) == queries
    for row, hits in zip(scores, found, strict=True):
        best, worst = brute_force(row, k), brute_force(-row, k)
        assert [hit.position for hit in hits.helpful] == best
        assert [hit.position for hit in hits.harmful] == worst
        assert [hit.score for hit in hits.helpful] == [row[i] for i in best]
        assert [hit.score for hit in hits.harmful] == [row[i] for i in worst]
        assert all(hit.id == f"row-{hit.position}" for hit in hits.helpful + hits.harmful)


def test_a_memory_mapped_array_is_traced_like_one_in_memory(tmp_path):
    generator = np.random.default_rng(0)
    train, query = generator.normal(size=(50, 16)).astype(np.float32), generator.normal(size=(3, 16))
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    assert trace(query, mapped, ids(50), 5) == trace(query, train, ids(50), 5)


def test_a_row_is_its_own_most_helpful_row():
    train = np.random.default_rng(0).normal(size=(40, 32))
    assert [hits.helpful[0].position for hits in trace(train, train, ids(40), 1)] == list(range(40))


def test_trap_16_more_asked_than_there_is_gives_all():
    (hits,) = trace(np.ones((1, 2)), np.array([[1.0, 0], [-1, -1]]), ids(2), 10)
    assert [hit.id for hit in hits.helpful] == ["row-0", "row-1"]
    assert [hit.id for hit in hits.harmful] == ["row-1", "row-0"]


def test_trap_16_one_row_no_row_and_no_query_work():
    (hits,) = trace(np.ones((1, 2)), np.ones((1, 2)), ids(1), 5)
    assert len(hits.helpful) == len(hits.harmful) == 1
    (hits,) = trace(np.ones((1, 2)), np.ones((0, 2)), [], 5)
    assert hits.helpful == hits.harmful == []
    assert trace(np.ones((0, 2)), np.ones((3, 2)), ids(3), 5) == []


def test_trap_16_zero_vectors_score_zero():
    (hits,) = trace(np.zeros((1, 2)), np.array([[0.0, 0], [1, 1]]), ids(2), 2)
    assert [hit.score for hit in hits.helpful] == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_trap_15_rows_that_are_not_finite_are_refused_and_not_ranked(bad):
    train = np.ones((40, 2))
    train[33, 1] = bad
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="Row 33 of the vectors is not finite"):
        patch.setattr("rapidun.attribution.tracing._BLOCK_VALUES", 20)
        trace(np.ones((1, 2)), train, ids(40), 2)


def test_very_short_and_very_long_vectors_have_their_cosine():
    train = np.array([[1e-30, 0], [1e30, 1e30], [3e-20, 4e-20]])
    (hits,) = trace(np.array([[1e-25, 0]]), train, ids(3), 3)
    np.testing.assert_allclose([hit.score for hit in hits.helpful], [1, 0.5**0.5, 0.6], rtol=1e-5)


def test_bad_arguments_are_errors():
    with pytest.raises(ConfigError, match="k=0"):
        trace(np.ones((1, 2)), np.ones((1, 2)), ids(1), 0)
    with pytest.raises(InputError, match="2 ids for 1 training rows"):
        trace(np.ones((1, 2)), np.ones((1, 2)), ids(2), 1)
    with pytest.raises(InputError, match=r"query \(1, 2\), train \(1, 3\)"):
        trace(np.ones((1, 2)), np.ones((1, 3)), ids(1), 1)
    with pytest.raises(ConfigError, match="similarity"):
        trace(np.ones((1, 2)), np.ones((1, 2)), ids(1), 1, similarity="l2")
