"""Values of the suite qa from the numbers of rows, each against its own small computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from rapidun.cli.suite_tables import COMPARED, SHARES
from rapidun.evaluation import membership_auc, min_k, privleak
from rapidun.evaluation.qa import GROUPS, MEMBERSHIP, RowScores, qa_values, row_metrics
from rapidun.evaluation.qa import SHARES as MEASURED


def scores(seed: int, rows: int, shift: float = 0.0, wrong: int = 3) -> RowScores:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 12, rows)
    log_probs = [(-rng.gamma(2.0, 1.0 + shift, length)).astype(np.float32) for length in lengths]
    losses = np.array([-row.mean() for row in log_probs], np.float64)
    return RowScores(
        ids=[f"row{index}" for index in range(rows)],
        losses=losses,
        log_probs=log_probs,
        hits=[rng.random(length) < 0.6 for length in lengths],
        z_scores=[rng.normal(-shift, 1, length).astype(np.float32) for length in lengths],
        texts=[f"text {index} " * int(length) for index, length in enumerate(lengths)],
        correct=losses + 0.1,
        wrong=rng.gamma(3.0, 1.0, (rows, wrong)),
        rouge=rng.random(rows),
        paraphrased_losses=np.where(rng.random(rows) < 0.5, np.nan, losses),
        paraphrased_rouge=np.full(rows, np.nan),
        answers=[""] * rows,
    )


def model(shift: float, **options: int) -> dict[str, dict[str, np.ndarray]]:
    sizes = {"forget": 20, "retain": 30, "held_out": 25}
    shifts = {"forget": shift, "retain": 0.0, "held_out": 1.0}
    return {name: row_metrics(scores(seed, sizes[name], shifts[name], **options)) for seed, name in enumerate(GROUPS)}


def test_means_are_of_the_rows_that_have_the_number() -> None:
    rows = model(0.0)
    found = qa_values(rows)
    for group in GROUPS:
        there = rows[group]["paraphrased_probability"]
        there = there[~np.isnan(there)]
        value = found[f"{group}.paraphrased_probability"]
        assert (value.n, value.unit) == (len(there), "rows")
        assert value.value == pytest.approx(there.mean())
        assert value.low < value.value < value.high
        assert f"{group}.paraphrased_rouge_l_recall" not in found  # of no row


def test_membership_is_of_forget_beside_held_out_rows_and_points_the_right_way() -> None:
    rows = model(0.0)
    found = qa_values(rows)
    for name, higher in {"loss": False, "zlib_ratio": False, "min_k": True, "min_k_plus_plus": True}.items():
        one, other = rows["forget"][name], rows["held_out"][name]
        won = np.mean([(a > b) == higher for a in one for b in other])
        assert found[f"membership.{name}"].value == pytest.approx(won)
        assert won > 0.6  # the forget rows of this model are known
        assert found[f"membership.{name}"].n == 45
    assert "membership.reference_ratio" not in found


def test_without_a_retained_model_held_out_rows_are_the_yardstick() -> None:
    rows = model(0.0)
    found = qa_values(rows)
    forget, held_out = rows["forget"]["truth_ratio"], rows["held_out"]["truth_ratio"]
    assert found["forget_quality"].value == ks_2samp(forget, held_out).pvalue
    assert found["forget_quality"].n == 45
    auc = 1 - membership_auc(rows["forget"]["min_k_muse"], rows["held_out"]["min_k_muse"])
    assert found["privleak"].value == pytest.approx(2 * auc - 1)
    assert found["privleak"].value < 0
    assert found["privleak"].low < found["privleak"].value < found["privleak"].high


def test_a_retained_model_is_the_yardstick_where_there_is_one() -> None:
    rows, retained = model(0.0), model(1.0)
    found = qa_values(rows, retained)
    assert found["forget_quality"].value == (
        ks_2samp(rows["forget"]["truth_ratio"], retained["forget"]["truth_ratio"]).pvalue
    )
    aucs = [1 - membership_auc(m["forget"]["min_k_muse"], m["held_out"]["min_k_muse"]) for m in (rows, retained)]
    assert found["privleak"].value == pytest.approx(privleak(*aucs))
    alone = qa_values(rows)["privleak"]
    assert found["privleak"].high - found["privleak"].low > alone.high - alone.low  # two AUCs are uncertain, not one
    ratio = {group: rows[group]["loss"] / retained[group]["loss"] for group in GROUPS}
    expected = membership_auc(-ratio["forget"], -ratio["held_out"])
    assert found["membership.reference_ratio"].value == pytest.approx(expected)


def test_utility_is_the_harmonic_mean_of_what_was_measured_of_retain_rows() -> None:
    rows = model(0.0)
    means = [rows["retain"][name].mean() for name in ("probability", "rouge_l_recall", "truth_score")]
    value = qa_values(rows)["utility"]
    assert value.value == pytest.approx(3 / sum(1 / mean for mean in means))
    assert value.low < value.value < value.high
    assert value.n == 30
    rows["retain"]["rouge_l_recall"][:] = np.nan
    without = 2 / (1 / means[0] + 1 / means[2])
    assert qa_values(rows)["utility"].value == pytest.approx(without)


def test_rows_without_wrong_answers_have_no_forget_quality_and_no_truth_score() -> None:
    found = qa_values(model(0.0, wrong=0))
    assert "forget_quality" not in found
    assert not any("truth_score" in name for name in found)
    assert "utility" in found


def test_one_row_of_each_group_has_values_and_no_intervals_but_those_of_aucs() -> None:
    rows = {name: row_metrics(scores(seed, 1)) for seed, name in enumerate(GROUPS)}
    found = qa_values(rows)
    for name, value in found.items():
        assert math.isfinite(value.value)
        if name.partition(".")[0] not in ("membership", "privleak"):
            assert (value.low, value.high) == (None, None)


def test_numbers_of_rows_are_of_their_own_row() -> None:
    given = scores(0, 6)
    found = row_metrics(given)
    assert all(values.shape == (6,) and values.dtype == np.float64 for values in found.values())
    np.testing.assert_allclose(found["probability"], np.exp(-given.losses))
    np.testing.assert_allclose(
        found["truth_ratio"], np.exp(-given.wrong).mean(axis=1) / np.exp(-given.correct), rtol=1e-9
    )
    np.testing.assert_allclose(found["min_k_muse"], min_k(given.log_probs, 0.4))


def test_every_value_has_a_line_in_the_table_that_says_what_it_means() -> None:
    assert tuple(SHARES) == MEASURED
    named = {name.removeprefix("membership.") for name in COMPARED if name.startswith("membership.")}
    assert named == set(MEMBERSHIP)
    values = {name for name in qa_values(model(0.0), model(1.0)) if name.partition(".")[0] not in GROUPS}
    assert values == set(COMPARED)
