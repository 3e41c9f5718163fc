"""Properties of robust weights that hold for any scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapidun.weighting import WeightWarning, robust_weights

# Whole numbers of moderate size, so that shifting them loses no digit.
SCORES = st.lists(st.integers(-1000, 1000), min_size=1, max_size=60)
TEMPERATURES = st.floats(0.05, 20)


@pytest.fixture(autouse=True)
def _degenerate_weights_may_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightWarning)
        yield


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), TEMPERATURES)
def test_mean_is_one_and_weights_are_positive_and_bounded(scores: list[float], temperature: float) -> None:
    weights = robust_weights(scores, temperature)
    assert weights.shape == (len(scores),)
    assert abs(weights.mean() - 1) < 1e-12
    assert (weights > 0).all()
    assert weights.max() / weights.min() <= (3.0 / 0.2) * (1 + 1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60), TEMPERATURES)
def test_a_higher_score_never_gets_a_lower_weight(scores: list[float], temperature: float) -> None:
    order = np.argsort(scores, kind="stable")
    assert (np.diff(robust_weights(scores, temperature)[order]) >= 0).all()


@given(SCORES, TEMPERATURES, st.integers(-10_000, 10_000))
def test_shifting_all_scores_changes_nothing(scores: list[int], temperature: float, shift: int) -> None:
    np.testing.assert_allclose(
        robust_weights(np.add(scores, shift), temperature), robust_weights(scores, temperature), rtol=1e-9
    )


@given(SCORES, TEMPERATURES, st.floats(1e-6, 1e6))
def test_a_positive_scale_changes_nothing_with_the_relative_floor(
    scores: list[int], temperature: float, scale: float
) -> None:
    np.testing.assert_allclose(
        robust_weights(np.multiply(scores, scale), temperature), robust_weights(scores, temperature), rtol=1e-6
    )


@given(SCORES, st.randoms(use_true_random=False))
def test_weights_follow_their_rows(scores: list[int], random: object) -> None:
    order = list(range(len(scores)))
    random.shuffle(order)
    np.testing.assert_allclose(robust_weights(np.array(scores)[order], 1.2), robust_weights(scores, 1.2)[order])
