"""Schemes on evidence whose answer is known: mislabelled rows get low weight, losses order rows, negatives leave."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rapidun.errors import ConfigError, InputError
from rapidun.weighting import (
    SCHEMES,
    Evidence,
    Needs,
    Weights,
    WeightWarning,
    consistency_scores,
    fuse,
    group_weights,
    handle_negatives,
    moved_rows,
    read_weights,
    robust_weights,
    scheme_weights,
    write_weights,
)
from weighting.mixtures import mixture


def evidence(seed: int = 0, **changes: object) -> tuple[Evidence, np.ndarray]:
    blocks, labels = mixture(seed=seed, **changes)
    hidden, _ = mixture(seed=seed, **changes)
    losses = np.random.default_rng(seed).uniform(0.5, 4, len(labels))
    return Evidence(len(labels), blocks.rr.shape[0], blocks, hidden, losses), labels


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_scheme_gives_mean_one_weights_from_what_it_says_it_needs(name: str) -> None:
    whole, _ = evidence(mislabelled=6)
    needs = SCHEMES[name].needs
    known = Evidence(
        whole.forget,
        whole.retain,
        whole.gradients if Needs.GRADIENTS in needs else None,
        whole.hidden if Needs.HIDDEN in needs else None,
        whole.losses if Needs.LOSSES in needs else None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightWarning)
        found, again = (scheme_weights(name, known, seed=1) for _ in range(2))
    for group, size in (("forget", whole.forget), ("retain", whole.retain)):
        values = getattr(found, group)
        assert values.shape == getattr(found, f"{group}_scores").shape == (size,)
        assert values.mean() == pytest.approx(1, abs=1e-12)
        assert (values > 0).all()
        np.testing.assert_array_equal(values, getattr(again, group))
    if needs:
        with pytest.raises(InputError, match="this weighting scheme needs"):
            scheme_weights(name, Evidence(whole.forget, whole.retain))


SPOTTERS = ["influence", "representation", "consistency", "consistency_hidden", "trusted_influence"]
CASES = {
    "a third mislabelled": {"families": (8, 8, 8), "mislabelled": 12},
    "half mislabelled": {"families": (7, 7, 6), "mislabelled": 20},
    "imbalanced families": {"families": (34, 3, 3), "mislabelled": 12},
    "small set": {"families": (3, 2, 2), "mislabelled": 3, "retain": 30},
}


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("name", SPOTTERS)
def test_mislabelled_rows_get_low_weight(name: str, case: str) -> None:
    found = []
    for seed in range(5):
        known, poisoned = evidence(seed, **CASES[case])
        found.append(roc_auc_score(poisoned, scheme_weights(name, known).forget))
    assert np.mean(found) > (0.95 if "consistency" in name or case != "imbalanced families" else 0.85)


@pytest.mark.parametrize("name", ["uniform", "random", "shuffled"])
def test_the_controls_do_not_know_the_mislabelled_rows(name: str) -> None:
    found = []
    for seed in range(20):
        known, poisoned = evidence(seed, mislabelled=12)
        found.append(roc_auc_score(poisoned, scheme_weights(name, known, seed=seed).forget))
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("case", sorted(CASES))
def test_zero_divides_the_groups_under_consistency(case: str) -> None:
    right = []
    for seed in range(5):
        blocks, poisoned = mixture(seed=seed, **CASES[case])
        scores, trust = consistency_scores(blocks)
        right.append(np.mean((scores.forget > 0) == poisoned))
        assert np.mean(scores.retain > 0) > 0.75  # topics lie where chance put them, some near the poison
        assert ((trust.forget > 0.5) == (scores.forget > 0)).all()
    assert np.mean(right) > (0.8 if case == "half mislabelled" else 0.9)


def test_consistency_lets_trusted_rows_judge_the_others() -> None:
    """With half of the forget rows wrong, rounds of trust separate better than a single one."""
    gaps = []
    for rounds in (1, 10):
        gap = []
        for seed in range(5):
            blocks, poisoned = mixture(families=(7, 7, 6), mislabelled=20, noise=2.0, seed=seed)
            scores, _ = consistency_scores(blocks, rounds=rounds)
            apart = scores.forget[poisoned].mean() - scores.forget[~poisoned].mean()
            gap.append(apart / scores.forget.std())
        gaps.append(np.mean(gap))
    assert gaps[1] > gaps[0]


def test_a_clean_forget_set_is_trusted_almost_evenly() -> None:
    known, _ = evidence(families=(14, 13, 13))
    weights = scheme_weights("consistency", known).forget
    assert weights.min() > 0.7
    assert weights.max() < 1.3


def test_a_rows_own_similarity_says_nothing_about_it() -> None:
    blocks, _ = mixture(mislabelled=6)
    louder = SimpleNamespace(ff=blocks.ff + 100 * np.eye(30), fr=blocks.fr, rf=blocks.rf, rr=blocks.rr)
    np.testing.assert_allclose(
        scheme_weights("consistency", louder).forget, scheme_weights("consistency", blocks).forget
    )


@pytest.mark.parametrize("families", [(1,), (2,)])
def test_consistency_of_one_or_two_rows_works(families: tuple[int, ...]) -> None:
    blocks, _ = mixture(families=families, retain=4)
    assert np.isfinite(scheme_weights("consistency", blocks).forget).all()


def test_trap_23_the_loss_scheme_gives_small_losses_more_weight_unless_told_otherwise() -> None:
    known, _ = evidence()
    low = scheme_weights("loss", known)
    wanted = np.exp(-known.losses / 0.8)
    np.testing.assert_allclose(low.forget, wanted / wanted.mean())
    np.testing.assert_array_equal(low.retain, np.ones(known.retain))
    high = scheme_weights("loss", known, options={"direction": "high", "tau": 2.0})
    wanted = np.exp(known.losses / 2.0)
    np.testing.assert_allclose(high.forget, wanted / wanted.mean())


def test_losses_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="shape \\(3,\\) for 4 forget rows"):
        scheme_weights("loss", Evidence(4, 2, losses=np.ones(3)))
    with pytest.raises(InputError, match="finite"):
        scheme_weights("loss", Evidence(2, 2, losses=np.array([1.0, np.nan])))


def test_released_takes_the_released_codes_choices() -> None:
    blocks, _ = mixture(families=(20, 20, 20), retain=120)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeightWarning)
        found = scheme_weights("released", blocks)
        scores = fuse(blocks, top_k=40, exclude_self=False)
        np.testing.assert_array_equal(found.forget, robust_weights(scores.forget, 0.7, floor=1e-3))
        np.testing.assert_array_equal(found.retain, robust_weights(scores.retain, 1.2, floor=1e-3))


def test_representation_is_influence_on_hidden_blocks() -> None:
    known, _ = evidence()
    other, _ = mixture(seed=5)
    found = scheme_weights("representation", Evidence(known.forget, known.retain, known.gradients, other))
    np.testing.assert_array_equal(found.forget, scheme_weights("influence", other).forget)


def test_trusted_influence_multiplies_strength_and_trust() -> None:
    known, _ = evidence(mislabelled=8)
    strength, trust = (scheme_weights(name, known).forget for name in ("influence", "consistency_hidden"))
    np.testing.assert_allclose(
        scheme_weights("trusted_influence", known).forget, strength * trust / (strength * trust).mean()
    )


# --- rows below zero --------------------------------------------------------------------------------------------------


def signed_weights() -> Weights:
    return Weights(np.array([0.5, 1.5, 1.0, 1.0]), np.ones(3), np.array([-0.1, 0.3, 0.2, -2.0]), np.zeros(3))


def test_dropped_rows_weigh_nothing_and_the_mean_stays_one() -> None:
    found = handle_negatives(signed_weights(), "influence", "drop")
    np.testing.assert_allclose(found.forget, [0.0, 2.4, 1.6, 0.0])
    assert not found.moved.any()
    assert handle_negatives(signed_weights(), "influence", "keep").moved is None


def test_moved_rows_are_in_the_file_and_come_back(tmp_path) -> None:
    found = handle_negatives(signed_weights(), "influence", "retain")
    rows = [{"id": f"r{i}", "prompt": "p", "response": "a"} for i in range(4)]
    write_weights(tmp_path / "weights.jsonl", found, rows, rows[:3])
    table = read_weights(tmp_path / "weights.jsonl")
    assert moved_rows(table) == [0, 3]
    np.testing.assert_allclose(group_weights(table, "forget", 4), [0.0, 2.4, 1.6, 0.0])
    text = (tmp_path / "weights.jsonl").read_text()
    assert text.count('"moved": true') == 2
    (tmp_path / "weights.jsonl").write_text(text.replace('"moved": true', '"moved": 1'))
    with pytest.raises(InputError, match=r"weights\.jsonl:1: moved is 1"):
        read_weights(tmp_path / "weights.jsonl")


def test_scores_without_a_zero_and_sets_without_a_row_left_are_refused() -> None:
    with pytest.raises(ConfigError, match="the scores of 'uniform' have no zero"):
        handle_negatives(signed_weights(), "uniform", "drop")
    all_below = Weights(np.ones(2), np.ones(2), np.array([-1.0, -2.0]), np.zeros(2))
    with pytest.raises(ConfigError, match="none would be left"):
        handle_negatives(all_below, "influence", "drop")


def judged(*scores: float) -> Weights:
    return Weights(np.ones(len(scores)), np.ones(3), np.array(scores), np.zeros(3))


def test_by_default_what_consistency_takes_for_mislabelled_is_dropped() -> None:
    found = handle_negatives(judged(-1, -1, -1, -1, 1, 1, 1, 1), "consistency_hidden", "auto")
    np.testing.assert_allclose(found.forget, [0, 0, 0, 0, 2, 2, 2, 2])


@pytest.mark.parametrize(
    ("weights", "scheme"),
    [
        (judged(-1, -1, -1, -1, -1, 1, 1, 1), "consistency_hidden"),  # most: the two sets are of one kind
        (judged(-1, 1, 1, 1, 1, 1, 1), "consistency_hidden"),  # few rows know no wrong one
        (judged(-1, 1, 1, 1, 1, 1, 1, 1), "influence"),  # its zero is no label
        (judged(-1, 1, 1, 1, 1, 1, 1, 1), "uniform"),
    ],
)
def test_by_default_no_row_is_dropped_on_weaker_grounds(weights: Weights, scheme: str) -> None:
    assert handle_negatives(weights, scheme, "auto") is weights
