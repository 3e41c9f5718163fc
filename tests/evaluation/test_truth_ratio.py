"""Truth ratio, forget quality and model utility: by hand, by naive formulas, and where two conventions differ."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rapidun.evaluation import forget_quality, model_utility, truth_ratio, truth_score

LOSSES = st.floats(0, 30)


def naive(correct: float, wrong: list[float], convention: str) -> float:
    """From probabilities, one row at a time, as the papers write it."""
    chances = [math.exp(-loss) for loss in wrong]
    means = {"tofu": sum(chances) / len(chances), "open-unlearning": math.prod(chances) ** (1 / len(chances))}
    return means[convention] / math.exp(-correct)


def test_one_row_by_hand_in_both_conventions() -> None:
    """P(correct) = 1/2; P(wrong) = 1/4 and 1/16: means 5/32 and 1/8."""
    correct, wrong = [math.log(2)], [[math.log(4), math.log(16)]]
    assert truth_ratio(correct, wrong) == pytest.approx([5 / 16])
    assert truth_ratio(correct, wrong, "tofu") == pytest.approx([5 / 16])
    assert truth_ratio(correct, wrong, convention="open-unlearning") == pytest.approx([1 / 4])


@pytest.mark.parametrize("convention", ["tofu", "open-unlearning"])
@given(data=st.data())
def test_the_ratio_is_the_naive_formula(convention: str, data: st.DataObject) -> None:
    rows, answers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    correct = data.draw(arrays(np.float64, rows, elements=LOSSES))
    wrong = data.draw(arrays(np.float64, (rows, answers), elements=LOSSES))
    found = truth_ratio(correct, wrong, convention)
    assert (found.shape, found.dtype) == ((rows,), np.float64)
    np.testing.assert_allclose(
        found, [naive(c, list(w), convention) for c, w in zip(correct, wrong, strict=True)], rtol=1e-9
    )


@given(correct=arrays(np.float64, 4, elements=LOSSES), wrong=arrays(np.float64, (4, 3), elements=LOSSES))
def test_the_arithmetic_mean_is_never_below_the_geometric(correct: np.ndarray, wrong: np.ndarray) -> None:
    assert (truth_ratio(correct, wrong, "tofu") >= truth_ratio(correct, wrong, "open-unlearning") * (1 - 1e-9)).all()


@given(correct=arrays(np.float64, 4, elements=LOSSES), loss=arrays(np.float64, 4, elements=LOSSES))
def test_conventions_agree_on_one_wrong_answer_and_on_equal_ones(correct: np.ndarray, loss: np.ndarray) -> None:
    for wrong in (loss[:, None], np.repeat(loss[:, None], 5, axis=1)):
        np.testing.assert_allclose(
            truth_ratio(correct, wrong, "tofu"), truth_ratio(correct, wrong, "open-unlearning"), rtol=1e-9
        )


def test_conventions_differ_as_soon_as_two_wrong_answers_do() -> None:
    wrong = [[1.0, 1.5]]
    assert truth_ratio([1.0], wrong, "tofu")[0] > truth_ratio([1.0], wrong, "open-unlearning")[0] * 1.01


@pytest.mark.parametrize("convention", ["tofu", "open-unlearning"])
def test_a_row_with_fewer_wrong_answers_counts_those_it_has(convention: str) -> None:
    wrong = [[1.0, 3.0, math.nan], [2.0, math.nan, math.nan], [math.nan] * 3, [1.0, 2.0, 3.0]]
    found = truth_ratio([0.5] * 4, wrong, convention)
    expected = [naive(0.5, row, convention) for row in ([1.0, 3.0], [2.0], [1.0, 2.0, 3.0])]
    assert found[[0, 1, 3]] == pytest.approx(expected)
    assert math.isnan(found[2])


@pytest.mark.parametrize("convention", ["tofu", "open-unlearning"])
def test_losses_beyond_every_probability_still_have_a_ratio(convention: str) -> None:
    """exp(-800) is 0 in float64; the ratio of two such probabilities is not."""
    assert truth_ratio([800.0], [[801.0]], convention) == pytest.approx([math.exp(-1)])
    assert truth_ratio([2000.0], [[1.0]], convention)[0] == math.inf


@pytest.mark.parametrize("convention", ["tofu", "open-unlearning"])
def test_infinite_losses(convention: str) -> None:
    inf = math.inf
    found = truth_ratio([1.0, inf, inf], [[inf, inf], [1.0, 2.0], [inf, inf]], convention)
    assert found[0] == 0
    assert found[1] == inf
    assert math.isnan(found[2])


def test_one_impossible_wrong_answer_halves_tofus_ratio_and_ends_the_geometric() -> None:
    correct, wrong = [1.0], [[1.0, math.inf]]
    assert truth_ratio(correct, wrong, "tofu") == pytest.approx([0.5])
    assert truth_ratio(correct, wrong, "open-unlearning") == pytest.approx([0.0])


def test_no_rows_and_no_wrong_answers() -> None:
    for convention in ("tofu", "open-unlearning"):
        assert truth_ratio([], np.zeros((0, 3)), convention).shape == (0,)
        assert np.isnan(truth_ratio([1.0, 2.0], np.zeros((2, 0)), convention)).all()


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [[1.0], [2.0], [3.0]]])
def test_shapes_that_do_not_belong_together_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="rows, wrong answers"):
        truth_ratio([1.0, 2.0], wrong)


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="tofu, open-unlearning"):
        truth_ratio([1.0], [[1.0]], "muse")  # type: ignore[arg-type]


def test_the_truth_score_is_one_minus_the_ratio_and_never_below_zero() -> None:
    assert truth_score([0.0, 0.25, 1.0, 7.0, math.inf]).tolist() == [1.0, 0.75, 0.0, 0.0, 0.0]
    assert np.isnan(truth_score([math.nan])).all()


# forget quality -----------------------------------------------------------------------------------------------------


def exact_p(ours: list[float], theirs: list[float]) -> float:
    """Of all ways to deal the pooled values to two samples, the share whose distance is at least as large: no ties."""
    pooled = sorted(ours + theirs)

    def distance(chosen: frozenset[int]) -> Fraction:
        best, one, other = Fraction(0), 0, 0
        for place in range(len(pooled)):
            one, other = one + (place in chosen), other + (place not in chosen)
            best = max(best, abs(Fraction(one, len(ours)) - Fraction(other, len(theirs))))
        return best

    from itertools import combinations

    seen = distance(frozenset(pooled.index(value) for value in ours))
    ways = [distance(frozenset(chosen)) for chosen in combinations(range(len(pooled)), len(ours))]
    return sum(way >= seen for way in ways) / len(ways)


def test_forget_quality_is_the_exact_permutation_probability() -> None:
    rng = np.random.default_rng(0)
    for ours, theirs in ((4, 5), (3, 7), (6, 6)):
        one, other = rng.random(ours), rng.random(theirs) + 0.3
        assert forget_quality(one, other) == pytest.approx(exact_p(one.tolist(), other.tolist()))


def test_two_of_two_apart_by_hand() -> None:
    """Six ways to deal four values; in two of them all of one sample lie below the other."""
    assert forget_quality([1.0, 2.0], [3.0, 4.0]) == pytest.approx(2 / 6)


def test_the_same_values_have_quality_one_and_distant_ones_none() -> None:
    values = np.linspace(0.1, 2.0, 40)
    assert forget_quality(values, values) == 1.0
    assert forget_quality(values, values + 5) < 1e-20


@given(
    values=arrays(np.float64, 12, elements=st.integers(1, 9)), others=arrays(np.float64, 9, elements=st.integers(1, 9))
)
def test_forget_quality_knows_no_direction_and_no_scale(values: np.ndarray, others: np.ndarray) -> None:
    """Ties included: R, 1/R and log R say the same, and so does exchanging the models."""
    expected = forget_quality(values, others)
    assert 0 <= expected <= 1
    assert forget_quality(others, values) == pytest.approx(expected)
    assert forget_quality(1 / values, 1 / others) == pytest.approx(expected)
    assert forget_quality(np.log(values), np.log(others)) == pytest.approx(expected)


def test_infinite_ratios_are_the_largest() -> None:
    assert forget_quality([math.inf, 1.0], [2.0, 3.0]) == forget_quality([9.0, 1.0], [2.0, 3.0])


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [[1.0]]])
def test_forget_quality_of_no_rows_or_missing_values_is_refused(bad: list[float]) -> None:
    for pair in ((bad, [1.0]), ([1.0], bad)):
        with pytest.raises(ValueError, match="truth ratios"):
            forget_quality(*pair)


# model utility ------------------------------------------------------------------------------------------------------


def test_utility_by_hand() -> None:
    assert model_utility([1.0, 0.5]) == pytest.approx(2 / 3)
    assert model_utility([0.25]) == pytest.approx(0.25)
    assert model_utility([0.9] * 8 + [0.0]) == 0.0
    assert isinstance(model_utility(np.array([0.5, 0.5])), float)


@given(values=st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_utility_is_the_harmonic_mean_between_the_smallest_and_the_mean(values: list[float]) -> None:
    found = model_utility(values)
    assert found == pytest.approx(len(values) / sum(1 / value for value in values))
    assert min(values) * (1 - 1e-9) <= found <= np.mean(values) * (1 + 1e-9)


@pytest.mark.parametrize("bad", [[], [0.5, -0.1], [0.5, math.nan], [0.5, math.inf]])
def test_utility_of_nothing_or_of_no_number_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="model utility"):
        model_utility(bad)
