from __future__ import annotations

import numpy as np
import pytest

from rapidun.errors import ConfigError, InputError
from rapidun.influence.fusion import aggregate_queries, ranks, reciprocal_rank_fusion


def test_fused_scores_are_sums_of_reciprocal_ranks():
    views = [np.array([[3.0, 1.0, 2.0]]), np.array([[10.0, 30.0, 20.0]])]
    fused = reciprocal_rank_fusion(views, constant=60)
    wanted = [1 / 61 + 1 / 63, 1 / 63 + 1 / 61, 1 / 62 + 1 / 62]
    np.testing.assert_allclose(fused, [wanted], rtol=1e-6)


def test_the_scale_of_a_view_does_not_matter():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 50))
    np.testing.assert_array_equal(reciprocal_rank_fusion([a, b]), reciprocal_rank_fusion([1e6 * a - 3, np.exp(b)]))


def test_equal_scores_are_treated_alike_wherever_they_stand():
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 4, (3, 40)).astype(float)
    order = rng.permutation(40)
    np.testing.assert_array_equal(
        reciprocal_rank_fusion([scores])[:, order], reciprocal_rank_fusion([scores[:, order]])
    )
    assert ranks(np.array([[5.0, 5.0, 1.0]])).tolist() == [[1.5, 1.5, 3.0]]


def test_a_weight_of_zero_removes_a_view():
    a, b = np.random.default_rng(2).normal(size=(2, 3, 20))
    np.testing.assert_allclose(reciprocal_rank_fusion([a, b], weights=[2, 0]), 2 * reciprocal_rank_fusion([a]))


def test_a_row_good_in_every_view_beats_one_best_in_a_single_view():
    steady, lucky = 1.0, 2.0
    views = [np.array([[steady, lucky, *np.zeros(9)]]), np.array([[steady, -1.0, *np.zeros(9)]])]
    assert reciprocal_rank_fusion(views)[0].argmax() == 0


@pytest.mark.parametrize(("how", "wanted"), [("mean", [2.0, 3.0]), ("median", [1.0, 4.0]), ("max", [5.0, 5.0])])
def test_queries_are_aggregated(how, wanted):
    scores = np.array([[0.0, 0.0], [1.0, 4.0], [5.0, 5.0]])
    np.testing.assert_allclose(aggregate_queries(scores, how), wanted)


def test_ranked_aggregation_lets_no_query_shout():
    scores = np.array([[100.0, 0.0, -1.0], [0.0, 1.0, -1.0], [0.0, 1.0, -1.0]])
    assert aggregate_queries(scores, "mean").argmax() == 0
    assert aggregate_queries(scores, "rrf").argmax() == 1


def test_no_rows_give_no_scores():
    assert reciprocal_rank_fusion([np.zeros((2, 0))]).shape == (2, 0)


def test_bad_input_is_named():
    a = np.zeros((2, 3))
    with pytest.raises(InputError, match="at least one"):
        reciprocal_rank_fusion([])
    with pytest.raises(InputError, match=r"\(2, 3\), \(2, 4\)"):
        reciprocal_rank_fusion([a, np.zeros((2, 4))])
    with pytest.raises(InputError, match="row 2 for query 1 is nan"):
        reciprocal_rank_fusion([a, np.array([[0, 0, 0], [0, 0, np.nan]])])
    with pytest.raises(ConfigError, match="2 views"):
        reciprocal_rank_fusion([a, a], weights=[1])
    with pytest.raises(ConfigError, match="all are 0"):
        reciprocal_rank_fusion([a], weights=[0])
    with pytest.raises(ConfigError, match="constant=-1"):
        reciprocal_rank_fusion([a], constant=-1)
    with pytest.raises(ConfigError, match="rrf"):
        aggregate_queries(a, "vote")
    with pytest.raises(InputError, match="No queries"):
        aggregate_queries(np.zeros((0, 3)))
