from __future__ import annotations

import numpy as np
import pytest

from rapidun.attribution.fusion import evidence, evidence_fusion, ranks, reciprocal_rank_fusion
from rapidun.errors import ConfigError, InputError


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


def test_evidence_counts_lower_spreads_above_the_middle() -> None:
    scores = np.concatenate([np.random.default_rng(0).normal(5.0, 2.0, 9999), [25.0]])[None]
    found = evidence(scores)
    assert found[0, -1] == pytest.approx(10.0, rel=0.05)
    np.testing.assert_allclose(found, evidence(3 * scores - 7), rtol=1e-9)


def test_one_row_far_away_does_not_make_the_others_look_flat() -> None:
    scores = np.random.default_rng(3).normal(size=(1, 200))
    far = np.append(scores, [[1e12]], axis=1)
    np.testing.assert_allclose(evidence(far)[0, :200], evidence(scores)[0], rtol=0.1, atol=0.05)


def test_evidence_of_flat_scores_is_finite() -> None:
    mostly_zero = np.zeros((1, 100))
    mostly_zero[0, :10] = 3.0
    found = evidence(np.concatenate([mostly_zero, np.ones((1, 100))]))
    assert found[0, 0] == pytest.approx(3.0 / mostly_zero.std()) and (found[0, 10:] == 0).all()
    assert (found[1] == 0).all()


def test_chosen_rows_are_measured_by_the_sample() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(2, 500))
    chosen = [3, 400]
    whole = evidence_fusion([scores, scores**3], weights=[2, 1])
    part = evidence_fusion([scores[:, chosen], scores[:, chosen] ** 3], weights=[2, 1], samples=[scores, scores**3])
    np.testing.assert_allclose(part, whole[:, chosen], rtol=1e-5)


def test_a_view_that_sees_nothing_does_not_hide_one_that_does() -> None:
    rng = np.random.default_rng(2)
    clear = np.concatenate([rng.normal(20.0, 1.0, (5, 30)), rng.normal(0.0, 1.0, (5, 970))], axis=1)
    noise = rng.normal(size=(5, 1000))
    by_evidence, by_ranks = (fuse([clear, noise]) for fuse in (evidence_fusion, reciprocal_rank_fusion))
    top = [np.argsort(-scores, axis=1)[:, :30] for scores in (by_evidence, by_ranks)]
    assert (top[0] < 30).mean() == 1.0 > (top[1] < 30).mean()
