"""What is chosen: exactly what was asked for, and with diversity rows that are unlike each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapidun.errors import ConfigError
from rapidun.valuation import Selection, choose, parse_selection, pick_diverse
from rapidun.valuation.selection import choose_diverse, shortlist

VALUES = np.array([0.5, -0.1, 0.9, 0.2, 0.9, 0.0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top:10%", Selection("top", 0.1, True)),
        ("top:500", Selection("top", 500)),
        ("budget:1e6tokens", Selection("budget", 1e6)),
        ("budget:2000", Selection("budget", 2000)),
        ("threshold:0.2", Selection("threshold", 0.2)),
        ("threshold:-1.5", Selection("threshold", -1.5)),
    ],
)
def test_what_can_be_asked_for(text, expected):
    assert parse_selection(text) == expected


@pytest.mark.parametrize(
    "text",
    ["top", "best:5", "top:0", "top:0%", "top:101%", "top:2.5", "top:x", "top:inf", "budget:-1", "budget:1.5",
     "threshold:nan", "threshold:", "top:5tokens"],
)  # fmt: skip
def test_what_cannot_is_said_with_how_to_write_it(text):
    with pytest.raises(ConfigError, match=r"--select .*top:10%"):
        parse_selection(text)


def test_the_best_come_first_and_equals_in_the_pools_order():
    assert choose(parse_selection("top:3"), VALUES).tolist() == [2, 4, 0]
    assert choose(parse_selection("top:34%"), VALUES).tolist() == [2, 4, 0]  # rounded up
    assert choose(parse_selection("top:99"), VALUES).tolist() == [2, 4, 0, 3, 5, 1]
    assert choose(parse_selection("threshold:0.2"), VALUES).tolist() == [2, 4, 0, 3]
    assert choose(parse_selection("threshold:2"), VALUES).tolist() == []


def test_a_budget_is_kept_and_what_does_not_fit_is_passed_over():
    tokens = np.array([50, 1, 60, 30, 50, 10])
    assert choose(parse_selection("budget:100"), VALUES, tokens).tolist() == [2, 3, 5]
    with pytest.raises(ConfigError, match="tokens"):
        choose(parse_selection("budget:100"), VALUES)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 40)), min_size=1, max_size=30), st.integers(1, 300))
def test_no_budget_is_ever_exceeded_and_no_row_left_out_would_still_fit(rows, budget):
    values, tokens = (np.array(side) for side in zip(*rows, strict=True))
    chosen = choose(Selection("budget", budget), values, tokens)
    left = budget - tokens[chosen].sum()
    assert left >= 0
    out = np.setdiff1d(np.arange(len(rows)), chosen)
    assert (tokens[out] > left).all()


CLUSTERS = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("method", ["mmr", "facility"])
def test_diverse_rows_are_one_of_each_kind_before_a_second_of_any(method):
    values = np.array([1.0, 0.99, 0.98, 0.6, 0.59, 0.5, 0.1])
    picked = pick_diverse(method, CLUSTERS, values, 3)
    assert picked == [0, 3, 5]
    assert sorted(pick_diverse(method, CLUSTERS, values, 9)) == [0, 1, 2, 3, 4, 5, 6]


def test_facility_location_is_the_greedy_optimum_that_a_plain_search_finds():
    generator = np.random.default_rng(0)
    features = np.abs(generator.normal(size=(40, 6)))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    values = generator.random(40)
    scaled = (values - values.min()) / np.ptp(values)
    alike, covered, expected = features @ features.T, np.zeros(40), []
    for _ in range(8):
        gains = [-1 if j in expected else scaled @ np.maximum(alike[j] - covered, 0) for j in range(40)]
        expected.append(int(np.argmax(gains)))
        covered = np.maximum(covered, alike[expected[-1]])
    assert pick_diverse("facility", features, values, 8) == expected


def test_matching_takes_the_row_that_brings_the_sum_nearest_to_the_task_at_every_step():
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(30, 8)).astype(np.float32)
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    task = generator.normal(size=8)
    task /= np.linalg.norm(task)
    expected: list[int] = []
    for _ in range(9):
        sums = gradients + gradients[expected].sum(axis=0)
        agree = sums @ task / np.linalg.norm(sums, axis=1)
        agree[expected] = -2
        expected.append(int(np.argmax(agree)))
    assert pick_diverse("matching", gradients, gradients @ task, 9) == expected
    assert sorted(pick_diverse("matching", gradients, gradients @ task, 99)) == list(range(30))


def test_matching_prefers_rows_whose_errors_average_out_to_better_rows_that_err_alike():
    generator = np.random.default_rng(1)
    noisy, biased = np.zeros((20, 200)), np.zeros((20, 200))
    noisy[:, 0], biased[:, 0] = 0.5, 0.6
    noise = generator.normal(size=(20, 198))
    noisy[:, 2:] = noise / np.linalg.norm(noise, axis=1, keepdims=True) * 0.75**0.5
    biased[:, 1] = 0.8  # every one of them leads the same way past the task
    rows = np.concatenate([noisy, biased])
    picked = pick_diverse("matching", rows, rows[:, 0], 20)
    assert np.mean(np.array(picked) < 20) > 0.8
    assert set(choose(Selection("top", 20), rows[:, 0])) == set(range(20, 40))


def test_a_shortlist_is_four_times_as_wide_and_never_narrower_than_the_selection():
    values = np.arange(100)[::-1]
    assert len(shortlist(Selection("top", 10), values)) == 40
    assert len(shortlist(Selection("top", 0.5, True), values)) == 100
    assert len(shortlist(Selection("top", 15), values, limit=20)) == 20
    with pytest.raises(ConfigError, match="at most 20 rows, and this selection has 50"):
        shortlist(Selection("top", 50), values, limit=20)
    tokens = np.full(100, 7)
    assert len(shortlist(Selection("budget", 70), values, tokens)) == 40
    picked = choose_diverse(Selection("budget", 20), np.array([5, 6, 7]), [2, 0, 1], tokens)
    assert picked.tolist() == [7, 5]
    with pytest.raises(ConfigError, match="--diversity"):
        shortlist(Selection("threshold", 1), values)


def test_an_unknown_method_is_named():
    with pytest.raises(ConfigError, match="facility, matching, mmr"):
        pick_diverse("magic", CLUSTERS, np.ones(7), 2)
