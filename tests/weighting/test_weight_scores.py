"""Four blocks to one score per row."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from rapidun.errors import ConfigError, InputError
from rapidun.weighting import fuse


def blocks(forget: int = 3, retain: int = 4, seed: int = 0, **given: np.ndarray) -> SimpleNamespace:
    generator = np.random.default_rng(seed)
    sizes = {"f": forget, "r": retain}
    made = {name: generator.normal(size=(sizes[name[0]], sizes[name[1]])) for name in ("ff", "fr", "rf", "rr")}
    return SimpleNamespace(**{**made, **given})


def test_scores_are_the_difference_of_medians_by_hand() -> None:
    given = blocks(
        ff=np.array([[9.0, 1, 2], [3, 9, 5], [4, 6, 9]]),
        fr=np.array([[1.0, 2, 3, 4], [0, 0, 0, 0], [1, 1, 1, 9]]),
    )
    scores = fuse(given)
    # Own query left out: medians of (1, 2), (3, 5), (4, 6); minus medians over the four retain queries.
    np.testing.assert_allclose(scores.forget, [1.5 - 2.5, 4.0 - 0.0, 5.0 - 1.0])
    np.testing.assert_allclose(fuse(given, exclude_self=False).forget, [2 - 2.5, 5 - 0.0, 6 - 1.0])


def test_retain_scores_subtract_the_influence_on_forget_queries() -> None:
    given = blocks()
    expected = [
        np.mean([given.rr[row, query] for query in range(4) if query != row]) - given.rf[row].mean() for row in range(4)
    ]
    np.testing.assert_allclose(fuse(given, aggregate="mean").retain, expected, atol=1e-12)


def test_trap_18_the_first_letter_is_the_scored_group_and_the_second_the_query_group() -> None:
    zero = {"ff": np.zeros((2, 2)), "fr": np.zeros((2, 3)), "rf": np.zeros((3, 2)), "rr": np.zeros((3, 3))}
    forget_on_retain = SimpleNamespace(**{**zero, "fr": np.array([[5.0, 5, 5], [0, 0, 0]])})
    scores = fuse(forget_on_retain)
    np.testing.assert_array_equal(scores.forget, [-5, 0])
    np.testing.assert_array_equal(scores.retain, [0, 0, 0])
    retain_on_forget = SimpleNamespace(**{**zero, "rf": np.array([[0.0, 0], [7, 7], [0, 0]])})
    scores = fuse(retain_on_forget)
    np.testing.assert_array_equal(scores.forget, [0, 0])
    np.testing.assert_array_equal(scores.retain, [0, -7, 0])


def test_a_transposed_cross_block_is_refused() -> None:
    given = blocks()
    given.fr = given.fr.T
    with pytest.raises(InputError, match="transposed"):
        fuse(given)


def test_coefficients_scale_their_own_block() -> None:
    given = blocks()
    plain, only_self = fuse(given), fuse(given, beta=0, delta=0)
    cross = fuse(given, alpha=0, beta=-1, gamma=0, delta=-1)
    np.testing.assert_allclose(plain.forget, only_self.forget - cross.forget)
    np.testing.assert_allclose(plain.retain, only_self.retain - cross.retain)
    np.testing.assert_allclose(fuse(given, alpha=2, beta=2, gamma=3, delta=3).forget, 2 * plain.forget)
    np.testing.assert_allclose(fuse(given, alpha=2, beta=2, gamma=3, delta=3).retain, 3 * plain.retain)


def test_self_influence_does_not_count_by_default() -> None:
    given = blocks()
    before = fuse(given).forget
    np.fill_diagonal(given.ff, 1e6)
    np.testing.assert_array_equal(fuse(given).forget, before)


def test_a_group_of_one_row_keeps_its_self_influence() -> None:
    given = blocks(forget=1)
    assert fuse(given).forget == pytest.approx(given.ff[0, 0] - np.median(given.fr))


def test_top_k_keeps_the_highest_rows_of_each_query_and_zeroes_the_others() -> None:
    rf = np.array([[1.0, -1], [3, -2], [2, -3]])
    given = blocks(forget=2, retain=3, rf=rf, rr=np.zeros((3, 3)))
    scores = fuse(given, aggregate="mean", top_k=1)
    # Query 0 keeps row 1 (3), query 1 keeps row 0 (-1): the highest, although negative.
    np.testing.assert_allclose(scores.retain, [0.5, -1.5, 0])


def test_top_k_of_every_row_changes_nothing() -> None:
    given = blocks()
    np.testing.assert_array_equal(fuse(given, top_k=99).retain, fuse(given).retain)


def test_ties_in_top_k_go_to_the_first_row() -> None:
    given = blocks(forget=2, retain=3, rf=np.ones((3, 2)), rr=np.zeros((3, 3)))
    np.testing.assert_array_equal(fuse(given, top_k=1).retain, [-1, 0, 0])


def test_float32_blocks_are_computed_in_float64() -> None:
    given = blocks()
    single = SimpleNamespace(**{name: value.astype(np.float32) for name, value in vars(given).items()})
    assert fuse(single).forget.dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ff": np.zeros((3, 0))}, "block ff has shape"),
        ({"rr": np.zeros(4)}, "block rr has shape"),
        ({"rf": np.full((4, 3), np.nan)}, "scored row 0 and query 0"),
        ({"ff": np.zeros((3, 2))}, "exclude_self=False"),
        ({"rr": np.zeros((5, 4))}, "rr and rf score 5 and 4 rows"),
    ],
)
def test_unusable_blocks_are_named(changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fuse(blocks(**changes))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="median, mean"):
        fuse(blocks(), aggregate="mode")
    with pytest.raises(ConfigError, match="top_k is 0"):
        fuse(blocks(), top_k=0)
