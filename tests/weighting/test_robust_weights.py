"""Scores to bounded mean-one weights."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from rapidun.errors import ConfigError, InputError
from rapidun.weighting import WeightWarning, fuse, robust_weights


def test_golden_numbers() -> None:
    # Median 3, MAD 1, scale 1.4826; z/tau = (S - 3) / (1.4826 * 0.7), clipped to ln 0.2 and ln 3.
    raw = [math.exp(max(min((score - 3) / (1.4826 * 0.7), math.log(3)), math.log(0.2))) for score in (1, 2, 3, 4, 9)]
    expected = [value / (sum(raw) / 5) for value in raw]
    np.testing.assert_allclose(robust_weights([1, 2, 3, 4, 9], 0.7), expected, rtol=1e-14)


def test_an_absolute_floor_above_the_mad_divides_instead() -> None:
    raw = [math.exp(score / 10) for score in (-1, 0, 1)]
    expected = [value / (sum(raw) / 3) for value in raw]
    np.testing.assert_allclose(robust_weights([-1, 0, 1], 1.0, floor=10.0), expected, rtol=1e-14)


def test_bounds_are_reached_and_their_ratio_is_never_exceeded() -> None:
    weights = robust_weights([-100.0, -1, 0, 1, 100], 1.0, w_min=0.5, w_max=4.0)
    assert weights.max() / weights.min() == pytest.approx(8.0)


def test_equal_scores_give_equal_weights_and_say_so() -> None:
    with pytest.warns(WeightWarning, match="nearly constant"), pytest.warns(WeightWarning, match="MAD 0"):
        weights = robust_weights([2.5] * 6, 0.7)
    np.testing.assert_array_equal(weights, np.ones(6))


def test_rounding_noise_is_not_made_into_weights() -> None:
    noisy = 0.3 + np.array([0, 1, 2, 3, 4]) * 1e-16
    with pytest.warns(WeightWarning, match="nearly constant"):
        weights = robust_weights(noisy, 0.7)
    np.testing.assert_allclose(weights, 1, atol=1e-3)


def test_one_row_has_weight_one_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(robust_weights([7.0], 0.7), [1.0])


def test_ordinary_scores_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robust_weights(np.random.default_rng(0).normal(size=200), 0.7)


def test_trap_17_top_k_before_the_median_gives_scores_of_zero_and_a_warning() -> None:
    generator = np.random.default_rng(0)
    blocks = SimpleNamespace(
        **{
            name: generator.normal(size=shape)
            for name, shape in {"ff": (40, 40), "fr": (40, 120), "rf": (120, 40), "rr": (120, 120)}.items()
        }
    )
    truncated = fuse(blocks, top_k=40).retain
    assert (truncated == 0).mean() > 0.5
    with pytest.warns(WeightWarning, match="MAD 0.*top_k=None"):
        robust_weights(truncated, 1.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = robust_weights(fuse(blocks).retain, 1.2)
    assert len(np.unique(weights)) > 80


@pytest.mark.parametrize("outliers", [[5000.0], [-5000.0], [1e12], [5000.0, -1e15], [1e9] * 25])
def test_outliers_leave_the_weights_of_the_other_rows_apart(outliers: list[float]) -> None:
    scores = np.random.default_rng(0).normal(size=60)
    alone, beside = robust_weights(scores, 0.7), robust_weights([*scores, *outliers], 0.7)[:60]
    assert alone.max() / alone.min() == pytest.approx(15.0)
    assert beside.max() / beside.min() == pytest.approx(15.0)


def test_how_far_an_outlier_lies_changes_no_weight() -> None:
    scores = np.random.default_rng(1).normal(size=60)
    near, far = (robust_weights([*scores, at], 0.7) for at in (50.0, 5e15))
    np.testing.assert_array_equal(near, far)


@pytest.mark.filterwarnings("ignore::rapidun.weighting.WeightWarning")
@pytest.mark.parametrize("equal", [0.45, 0.5, 0.55, 0.8, 0.95])
@pytest.mark.parametrize("outlier", [None, 5000.0, 1e15])
def test_scores_of_which_many_are_equal_still_order_the_others(equal: float, outlier: float | None) -> None:
    others = np.random.default_rng(2).normal(size=round(200 * (1 - equal)))
    tied = np.zeros(200 - len(others))
    weights = robust_weights([*tied, *others, *([outlier] if outlier else [])], 5.0)
    free = weights[len(tied) : 200]
    assert len(np.unique(free)) >= 0.5 * len(free)
    assert free.max() > 1.2 * free.min()


def test_more_than_half_at_a_bound_is_said() -> None:
    with pytest.warns(WeightWarning, match="100% of the weights sit"):
        robust_weights([-1.0, -1, -1, 1, 1, 1], 0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": math.nan},
        {"temperature": 1, "w_min": 0},
        {"temperature": 1, "w_min": 1.5},
        {"temperature": 1, "w_max": 0.9},
        {"temperature": 1, "floor": 0.0},
        {"temperature": 1, "floor": "absolute"},
        {"temperature": 1, "floor": math.inf},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        robust_weights([1.0, 2.0, 3.0], **settings)


@pytest.mark.parametrize("scores", [[], [[1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_scores_that_are_not_one_finite_number_per_row_are_refused(scores: list[float]) -> None:
    with pytest.raises(InputError):
        robust_weights(scores, 0.7)
