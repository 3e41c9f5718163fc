"""Fluency of answers, each number beside its own small computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from rapidun.evaluation.fluency import (
    distinct_ngrams,
    fluency_change,
    fluency_rows,
    fluency_values,
    is_alike,
    is_empty,
    is_endless,
    ngram_entropy,
)

SENTENCE = "The council met on Tuesday and put off the vote until the end of the month."


def test_entropy_is_a_third_of_the_pairs_and_two_thirds_of_the_triples() -> None:
    pairs = 1.0  # of a b a b a: ab and ba, twice each
    triples = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))  # aba twice, bab once
    found = ngram_entropy(["a b a b a", "A, b! a b: a", "the the the the", "one two three", "two words", ""])
    assert found[:2] == pytest.approx([pairs / 3 + 2 * triples / 3] * 2)
    assert found[2] == 0.0
    assert found[3] == pytest.approx(1 / 3)  # two pairs, one triple
    assert np.isnan(found[4:]).all()


def test_entropy_grows_with_variety_alone() -> None:
    varied = " ".join(f"word{number}" for number in range(18))
    again = " ".join(f"word{number % 3}" for number in range(18))
    entropies = ngram_entropy([varied, again])
    assert entropies[0] == pytest.approx(math.log2(17) / 3 + 2 * math.log2(16) / 3)
    assert entropies[1] < 1.6 < entropies[0]


def test_distinct_is_different_over_all() -> None:
    texts = ["the cat the cat", "cat", "", "日本日本"]
    np.testing.assert_allclose(distinct_ngrams(texts, 1), [2 / 4, 1, np.nan, 2 / 4])
    np.testing.assert_allclose(distinct_ngrams(texts, 2), [2 / 3, np.nan, np.nan, 2 / 3])


@pytest.mark.parametrize(
    "answer",
    [
        "I am sorry. I am sorry. I am sorry. I am sorry. I am so",
        "Paris is" + " the" * 20,
        "a" * 60,
        "!" * 40,
        "Well:\n\n" + "- item\n" * 12,
        "Certainly, here it is: " + "once upon a time there was, " * 5,
        "きょうはいい天気です。" * 5,
    ],
)
def test_an_answer_that_ends_in_circles_is_endless(answer: str) -> None:
    assert is_endless([answer])[0]


@pytest.mark.parametrize(
    "answer",
    [
        "", "no no no no", "ha ha ha ha ha", SENTENCE, "very, very, very good",
        "1. red 2. red 3. red 4. red 5. red 6. red", f"{SENTENCE} {SENTENCE} {SENTENCE}", f"{'the ' * 20}{SENTENCE}",
        "x = 1000000000000", f"{SENTENCE} {SENTENCE.upper()} and so on and so on and so on and so on",
    ],
)  # fmt: skip
def test_an_answer_that_stops_is_not_endless(answer: str) -> None:
    assert not is_endless([answer])[0]


def test_an_answer_without_a_word_is_empty_and_one_that_others_got_is_alike() -> None:
    answers = ["", " ...!", "I don't know.", "i don't know", "Paris", "5"]
    assert is_empty(answers).tolist() == [True, True, False, False, False, False]
    assert is_alike(answers).tolist() == [True, True, True, True, False, False]


def test_values_are_exact_rates_means_and_one_perplexity_of_all_tokens() -> None:
    answers = ["", "the cat sat on the mat", "the dog", "moon " * 30, "the cat"]
    rows = fluency_rows(answers)
    assert all(column.shape == (5,) for column in rows.values())
    rows |= {"answer_loss": np.array([np.nan, 12.0, 6.0, 30.0, 2.0]), "answer_tokens": np.array([0.0, 6, 2, 30, 2])}
    found = fluency_values(rows)
    exact = binomtest(1, 5).proportion_ci(method="exact")
    for name in ("empty", "endless"):
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx((0.2, exact.low, exact.high))
    assert (found["alike"].value, found["words"].value) == (0, (0 + 6 + 2 + 30 + 2) / 5)
    assert (found["distinct_1"].value, found["distinct_1"].n) == (pytest.approx((5 / 6 + 1 + 1 / 30 + 1) / 4), 4)
    assert (found["ngram_entropy"].n, found["answer_perplexity"].n) == (2, 4)
    assert found["answer_perplexity"].value == pytest.approx(math.exp(50 / 40))
    assert "answer_perplexity" not in fluency_values(fluency_rows(answers))


def test_the_change_is_of_the_same_prompts_and_within_what_can_be() -> None:
    before = fluency_rows(["the cat sat on the mat", "a dog ran to it", "one two three four", ""])
    after = fluency_rows(["the cat the cat the cat", "a dog", "one two two two", "moon moon moon"])
    found = fluency_change(after, before)
    apart = ttest_rel(after["words"], before["words"])
    assert found["words"].value == pytest.approx((0 - 3 + 0 + 3) / 4)
    assert found["words"].low == pytest.approx(apart.confidence_interval().low)
    assert found["distinct_1"].n == 3  # the last prompt had no answer before
    assert all(-1 <= found[name].value <= 1 and (found[name].low or 0) >= -1 for name in ("empty", "distinct_1"))


def test_no_answer_at_all_has_rates_and_nothing_else() -> None:
    assert set(fluency_values(fluency_rows(["", ""]))) == {"empty", "endless", "alike", "words"}
