"""Ranking measures against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rapidun.attribution import retrieval_quality
from rapidun.errors import ConfigError, InputError

RELEVANT = np.array([True, True, False, False, False])


def test_a_perfect_ranking_has_all_measures_one():
    found = retrieval_quality(np.array([[5, 4, 3, 2, 1], [9, 8, 0, 0, 0]]), RELEVANT, 2)
    for measure in (found.precision_at_k, found.auroc, found.average_precision):
        assert (measure.value, measure.low, measure.high) == (1, 1, 1)
    assert (found.k, found.queries, found.documents, found.relevant) == (2, 2, 5, 2)


def test_known_numbers_of_an_imperfect_ranking():
    found = retrieval_quality(np.array([[5.0, 2, 4, 3, 1]]), RELEVANT, 2)
    assert found.precision_at_k.value == 0.5
    assert found.auroc.value == pytest.approx(4 / 6)
    assert found.average_precision.value == pytest.approx((1 / 1 + 2 / 4) / 2)


def test_a_constant_score_is_chance_wherever_the_relevant_rows_stand():
    for relevant in (RELEVANT, RELEVANT[::-1]):
        found = retrieval_quality(np.zeros((3, 5)), relevant, 2)
        assert found.precision_at_k.value == pytest.approx(2 / 5)
        assert found.auroc.value == 0.5
        assert found.average_precision.value == pytest.approx(2 / 5)


@settings(max_examples=80, deadline=None)
@given(
    arrays(np.float64, (3, 8), elements=st.floats(-9, 9), unique=True),
    arrays(np.bool_, 8),
    st.integers(1, 12),
)
def test_measures_equal_brute_force(scores, relevant, k):
    assume(relevant.any() and not relevant.all())
    found = retrieval_quality(scores, relevant, k)
    precision, area, average = [], [], []
    for row in scores:
        ranked = relevant[np.argsort(-row)]
        precision.append(ranked[:k].mean())
        wins = [a > b for a in row[relevant] for b in row[~relevant]]
        area.append(np.mean(wins))
        places = np.flatnonzero(ranked) + 1
        average.append(np.mean([(i + 1) / place for i, place in enumerate(places)]))
    for measure, wanted in zip(
        (found.precision_at_k, found.auroc, found.average_precision), (precision, area, average), strict=True
    ):
        assert measure.value == pytest.approx(np.mean(wanted))
        assert min(wanted) - 1e-9 <= measure.low <= measure.value + 1e-9
        assert measure.value - 1e-9 <= measure.high <= max(wanted) + 1e-9


def test_the_interval_is_over_queries_and_repeats_with_its_seed():
    scores = np.random.default_rng(0).normal(size=(40, 5))
    found = retrieval_quality(scores, RELEVANT, 2)
    assert found == retrieval_quality(scores, RELEVANT, 2)
    assert found.auroc.low < found.auroc.value < found.auroc.high
    wide = retrieval_quality(scores[:10], RELEVANT, 2).auroc
    assert wide.high - wide.low > found.auroc.high - found.auroc.low


@pytest.mark.parametrize(
    ("scores", "relevant", "text"),
    [
        (np.ones((2, 4)), RELEVANT, "do not fit"),
        (np.ones((0, 5)), RELEVANT, "at least one query"),
        (np.ones((1, 2)), np.array([True, True]), "2 of 2 documents are relevant"),
        (np.ones((1, 2)), np.array([False, False]), "0 of 2 documents are relevant"),
        (np.array([[1, 2, 3, 4, np.nan]]), RELEVANT, "query 0 are not finite"),
    ],
)
def test_bad_input_is_an_error_that_says_why(scores, relevant, text):
    with pytest.raises(InputError, match=text):
        retrieval_quality(scores, relevant, 1)


def test_k_below_one_is_an_error():
    with pytest.raises(ConfigError, match="k=0"):
        retrieval_quality(np.ones((1, 5)), RELEVANT, 0)
