from __future__ import annotations

import numpy as np
import pytest
import torch

from rapidun.attribution import hidden_features
from rapidun.attribution.similarity import PoolStatistics, whiten, whitened_similarity
from rapidun.data.batches import Example
from rapidun.errors import ConfigError, InputError
from tiny import VOCABULARY, tiny_model


def pool(rows: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, 6)) * [10, 3, 1, 1, 0.3, 0.1] + 100).astype(np.float32)


def test_statistics_are_those_of_the_whole_pool_whatever_the_blocks():
    vectors = pool()
    found = PoolStatistics.of([vectors[:1], vectors[1:150], vectors[150:150], vectors[150:]])
    assert found.rows == 400
    np.testing.assert_allclose(found.mean, vectors.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(vectors.T.astype(np.float64), bias=True), rtol=1e-8)


def test_a_tiny_ridge_makes_the_pool_round():
    vectors = pool()
    statistics = PoolStatistics.of([vectors])
    white = whiten(vectors, statistics, ridge=1e-9)
    scale = np.trace(statistics.covariance) / 6
    np.testing.assert_allclose(np.cov(white.T, bias=True) / scale, np.eye(6), atol=1e-3)


def test_ridge_is_in_units_of_the_mean_eigenvalue():
    vectors = np.diag([3.0, 1.0]) @ np.array([[1.0, -1.0, 0, 0], [0, 0, 1.0, -1.0]])
    statistics = PoolStatistics.of([vectors.T])
    values = np.diag(statistics.covariance)
    m = values.mean()
    white = whiten(np.eye(2) + statistics.mean, statistics, ridge=1.0)
    np.testing.assert_allclose(white, np.diag(np.sqrt(m / (values + m))), rtol=1e-6)


def test_the_scale_of_the_model_does_not_matter():
    vectors = pool()
    small, large = (PoolStatistics.of([scale * vectors]) for scale in (1e-3, 1e3))
    np.testing.assert_allclose(
        whitened_similarity(1e-3 * vectors[:5], 1e-3 * vectors, small),
        whitened_similarity(1e3 * vectors[:5], 1e3 * vectors, large),
        atol=1e-4,
    )


def test_an_infinite_ridge_only_centres():
    vectors = pool()
    statistics = PoolStatistics.of([vectors])
    white = whiten(vectors, statistics, ridge=float("inf"))
    np.testing.assert_allclose(white, vectors - statistics.mean, rtol=1e-4, atol=1e-4)


def test_whitening_finds_the_quiet_direction_that_centring_misses():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(500, 6)) * [30, 30, 30, 30, 1, 1]
    special = np.arange(500) < 50
    vectors[special, 4] += 6
    statistics = PoolStatistics.of([vectors])
    queries = vectors[:20]

    def gap(ridge: float) -> float:
        scores = whitened_similarity(queries, vectors, statistics, ridge).mean(axis=0)
        return (scores[20:50].mean() - scores[~special].mean()) / scores[~special].std()

    assert gap(1e-3) > 3
    assert gap(float("inf")) < 1


def test_a_pool_that_does_not_vary_is_similar_to_nothing():
    vectors = np.ones((5, 3))
    statistics = PoolStatistics.of([vectors])
    assert (whitened_similarity(vectors[:2], vectors, statistics) == 0).all()


def test_bad_input_is_named():
    statistics = PoolStatistics.of([pool()])
    with pytest.raises(ConfigError, match="ridge=0"):
        whiten(pool(), statistics, ridge=0)
    with pytest.raises(InputError, match="do not fit"):
        whiten(np.zeros((2, 5)), statistics)
    with pytest.raises(InputError, match="Row 1 of the vectors"):
        whiten(np.array([[0.0] * 6, [np.nan] * 6]), statistics)
    with pytest.raises(InputError, match="empty"):
        PoolStatistics.of([])
    with pytest.raises(InputError, match="one width"):
        PoolStatistics.of([np.zeros((2, 3)), np.zeros((2, 4))])


def test_hidden_views_are_the_states_at_the_answer_and_before_it():
    model = tiny_model()
    generator = torch.Generator().manual_seed(0)
    rows = [
        Example(str(i), torch.randint(3, VOCABULARY, (length,), generator=generator).tolist(), start)
        for i, (length, start) in enumerate([(9, 4), (5, 1), (12, 11)])
    ]
    views = hidden_features(model, rows, 0)
    for number, row in enumerate(rows):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states[-1][0]
        np.testing.assert_allclose(views.answer_mean[number], states[row.answer_start :].mean(dim=0), atol=1e-5)
        np.testing.assert_allclose(views.last_prompt[number], states[row.answer_start - 1], atol=1e-5)
    assert hidden_features(model, [], 0).last_prompt.shape == (0, 16)
