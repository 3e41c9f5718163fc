"""TOFU's numbers from losses chosen so that every one of them can be worked out by hand."""

from __future__ import annotations

import math
from statistics import harmonic_mean

import numpy as np
import pytest

from rapidun.evaluation.qa import RowScores
from rapidun.evaluation.tofu import GROUPS, choice_probability, tofu_row_metrics, tofu_values


def scores(own: list[float], correct: list[float], wrong: list[list[float]], rouge: list[float]) -> RowScores:
    """Rows by probabilities instead of losses."""
    rows = len(own)
    return RowScores(
        ids=[str(row) for row in range(rows)], losses=-np.log(own), log_probs=[np.zeros(1, np.float32)] * rows,
        hits=[np.zeros(1, bool)] * rows, z_scores=[np.zeros(1, np.float32)] * rows, texts=["a"] * rows,
        correct=-np.log(correct), wrong=-np.log(wrong), rouge=np.array(rouge),
        paraphrased_losses=np.full(rows, np.nan), paraphrased_rouge=np.full(rows, np.nan), answers=[""] * rows,
    )  # fmt: skip


SCORES = {
    # truth ratios of the forget rows: (1/4 + 1/4)/2 / (1/2) = 1/2, and (1/8 + 1/2)/2 / (5/16) = 1
    "forget": scores([1 / 2, 1 / 4], [1 / 2, 5 / 16], [[1 / 4, 1 / 4], [1 / 8, 1 / 2]], [0.5, 1.0]),
    # probability (1/2 + 1/4)/2 = 3/8; truth scores 1 - 1/4 and 1 - 1/2, mean 5/8; ROUGE 3/4
    "retain": scores([1 / 2, 1 / 4], [1 / 2, 1 / 2], [[1 / 8, 1 / 8], [1 / 4, 1 / 4]], [0.5, 1.0]),
    # shares of the choices 1/4 / (1/4 + 1/8 + 1/8) = 1/2 and 1/8 / (1/8 + 1/8 + 1/4) = 1/4, mean 3/8;
    # truth ratios 1/2 and (3/16)/(1/8) > 1, scores 1/2 and 0, mean 1/4; ROUGE 1/2
    "real_authors": scores([1 / 4, 1 / 8], [1 / 4, 1 / 8], [[1 / 8, 1 / 8], [1 / 8, 1 / 4]], [0.0, 1.0]),
    # shares 1/2 / (5/8) = 4/5 and 1/2 / (3/4) = 2/3, mean 11/15; ratios 1/8 and 1/4, scores' mean 13/16; ROUGE 1
    "world_facts": scores([1 / 2, 1 / 2], [1 / 2, 1 / 2], [[1 / 16, 1 / 16], [1 / 8, 1 / 8]], [1.0, 1.0]),
}
NINE = [3 / 8, 3 / 4, 5 / 8, 3 / 8, 1 / 2, 1 / 4, 11 / 15, 1.0, 13 / 16]


def test_every_term_and_their_harmonic_mean_are_those_worked_out_by_hand() -> None:
    found = tofu_values({name: tofu_row_metrics(rows) for name, rows in SCORES.items()})
    terms = [
        found[f"{group}.{name}"].value
        for group in GROUPS[1:]
        for name in ("probability", "rouge_l_recall", "truth_score")
    ]
    assert terms == pytest.approx(NINE)
    utility = found["model_utility"]
    assert utility.value == pytest.approx(harmonic_mean(NINE))
    assert (utility.n, utility.unit) == (6, "rows")
    assert utility.low < utility.value < utility.high
    assert found["forget.probability"].value == pytest.approx(3 / 8)  # no share of choices
    assert found["forget.truth_score"].value == pytest.approx(1 / 4)


def test_the_right_answers_share_counts_the_choices_that_there_are() -> None:
    shares = choice_probability([math.log(2)] * 3, [[math.log(4)] * 2, [math.log(4), np.nan], [np.nan, np.nan]])
    assert shares[:2] == pytest.approx([1 / 2, 2 / 3])
    assert math.isnan(shares[2])
    assert choice_probability([1000.0], [[1000.0]]) == pytest.approx([0.5])  # whose probabilities are both 0 in float64


def with_ratios(ratios: list[float]) -> dict[str, dict[str, np.ndarray]]:
    metrics = {name: tofu_row_metrics(rows) for name, rows in SCORES.items()}
    return metrics | {"forget": metrics["forget"] | {"truth_ratio": np.array(ratios)}}


def test_forget_quality_needs_a_retained_model_and_is_the_chance_of_so_large_a_distance() -> None:
    model = with_ratios([1.0, 2.0, 3.0, 4.0])
    assert "forget_quality" not in tofu_values(model)
    apart = tofu_values(model, with_ratios([5.0, 6.0, 7.0, 8.0]))["forget_quality"]
    assert apart.value == pytest.approx(2 / math.comb(8, 4))  # of 70 orders of four and four, two are wholly apart
    assert (apart.low, apart.high, apart.n) == (None, None, 8)
    assert tofu_values(model, model)["forget_quality"].value == 1.0


def test_utility_is_not_made_up_of_fewer_than_nine_terms() -> None:
    metrics = {name: tofu_row_metrics(rows) for name, rows in SCORES.items()}
    for rows in metrics.values():
        rows["rouge_l_recall"] = np.full(2, np.nan)
    found = tofu_values(metrics)
    assert "model_utility" not in found
    assert "retain.rouge_l_recall" not in found
    assert found["retain.probability"].value == pytest.approx(3 / 8)


def test_a_group_in_which_nothing_is_known_makes_utility_nothing() -> None:
    lost = SCORES | {"world_facts": scores([1 / 4, 1 / 4], [1 / 4, 1 / 4], [[1 / 2, 1 / 2]] * 2, [1.0, 1.0])}
    assert tofu_values({name: tofu_row_metrics(rows) for name, rows in lost.items()})["model_utility"].value == 0.0
