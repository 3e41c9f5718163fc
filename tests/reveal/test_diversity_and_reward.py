"""The Vendi score against closed forms, and the reward at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rapidun.revealing.reward import answer_similarity, diversity, reward_of, vendi_score


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_n_equal_answers_are_one(n: int):
    assert vendi_score(np.ones((n, n))) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_n_orthogonal_answers_are_n(n: int):
    assert vendi_score(np.eye(n)) == pytest.approx(n)


def test_groups_of_equal_answers_are_as_many_as_their_sizes_entropy_says():
    blocks = np.zeros((6, 6))
    blocks[:3, :3] = blocks[3:5, 3:5] = blocks[5, 5] = 1.0
    shares = np.array([3, 2, 1]) / 6
    assert vendi_score(blocks) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))


def test_two_answers_of_known_similarity():
    low, high = (1 - 0.5) / 2, (1 + 0.5) / 2
    expected = math.exp(-low * math.log(low) - high * math.log(high))
    assert vendi_score(np.array([[1, 0.5], [0.5, 1]])) == pytest.approx(expected)


def test_the_score_does_not_depend_on_order():
    rng = np.random.default_rng(0)
    vectors = rng.random((9, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = rng.permutation(9)
    assert vendi_score(vectors @ vectors.T) == pytest.approx(vendi_score(vectors[order] @ vectors[order].T))


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), np.array([[1, 0.2], [0.9, 1]]), 2 * np.eye(3)])
def test_what_is_no_similarity_matrix_is_refused(matrix: np.ndarray):
    with pytest.raises(ValueError, match="similarity matrix"):
        vendi_score(matrix)


def test_answers_are_compared_by_their_words():
    found = answer_similarity(["The cat sat.", "the CAT sat", "dogs run far", "", "  "])
    assert found.shape == (5, 5)
    assert found[0, 1] == pytest.approx(1.0)
    assert found[0, 2] == found[0, 3] == 0.0
    assert found[3, 4] == pytest.approx(1.0)
    np.testing.assert_allclose(np.diag(found), 1.0)


def test_diversity_is_a_share():
    assert diversity(["one fish", "two birds", "red cars"]) == pytest.approx(1.0)
    assert diversity(["same words"] * 4) == pytest.approx(0.25)
    assert diversity([]) == 0.0


def test_the_reward_is_the_weighted_harmonic_mean():
    assert reward_of(0.5, 0.5) == pytest.approx(0.5)
    assert reward_of(0.8, 0.4) == pytest.approx(1 / (0.5 / 0.8 + 0.5 / 0.4))
    assert reward_of(0.8, 0.4, weight=0.9) == pytest.approx(1 / (0.9 / 0.8 + 0.1 / 0.4))
    assert reward_of(1.0, 1.0) == pytest.approx(1.0)


def test_a_part_that_is_zero_takes_all_unless_it_has_no_weight():
    assert reward_of(0.0, 1.0) == 0.0
    assert reward_of(1.0, 0.0) == 0.0
    assert reward_of(0.0, 0.0) == 0.0
    assert reward_of(0.7, 0.0, weight=1.0) == pytest.approx(0.7)
    assert reward_of(0.0, 0.3, weight=0.0) == pytest.approx(0.3)
    assert reward_of(1e-9, 1.0) == pytest.approx(2e-9, rel=1e-6)


@pytest.mark.parametrize("arguments", [(1.2, 0.5), (-0.1, 0.5), (0.5, 0.5, 1.5), (0.5, float("nan"))])
def test_values_out_of_range_are_refused(arguments: tuple[float, ...]):
    with pytest.raises(ValueError, match="must lie in"):
        reward_of(*arguments)
