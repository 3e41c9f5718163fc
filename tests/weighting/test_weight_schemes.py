"""The weighting schemes: RapidUn's and the controls of trap 29."""

from __future__ import annotations

import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from rapidun.attribution import influence_blocks
from rapidun.errors import ConfigError
from rapidun.weighting import SCHEMES, Evidence, fuse, register_scheme, robust_weights, scheme_weights, schemes
from rapidun.weighting.options import Following


def blocks(seed: int = 0, retain: int = 120) -> SimpleNamespace:
    generator = np.random.default_rng(seed)
    shapes = {"ff": (40, 40), "fr": (40, retain), "rf": (retain, 40), "rr": (retain, retain)}
    return SimpleNamespace(**{name: generator.normal(size=shape) for name, shape in shapes.items()})


def test_trap_29_the_controls_are_there() -> None:
    assert {"influence", "self_only", "uniform", "random", "shuffled"} <= set(SCHEMES)


@pytest.mark.parametrize("name", ["influence", "self_only", "uniform", "random", "shuffled"])
def test_every_scheme_gives_mean_one_weights_for_both_groups(name: str) -> None:
    weights = scheme_weights(name, blocks(), seed=3)
    assert weights.forget.shape == weights.forget_scores.shape == (40,)
    assert weights.retain.shape == weights.retain_scores.shape == (120,)
    assert weights.forget.mean() == pytest.approx(1, abs=1e-12)
    assert weights.retain.mean() == pytest.approx(1, abs=1e-12)


def test_influence_is_fuse_then_robust_weights_with_a_temperature_per_group() -> None:
    weights, scores = scheme_weights("influence", blocks()), fuse(blocks())
    np.testing.assert_array_equal(weights.forget, robust_weights(scores.forget, 0.7))
    np.testing.assert_array_equal(weights.retain, robust_weights(scores.retain, 1.2))
    np.testing.assert_array_equal(weights.retain_scores, scores.retain)


def test_options_reach_the_formulas() -> None:
    options = {"beta": 0.5, "aggregate": "mean", "top_k": 3, "forget_temperature": 2.0, "w_max": 1.5}
    scores = fuse(blocks(), beta=0.5, aggregate="mean", top_k=3)
    np.testing.assert_array_equal(
        scheme_weights("influence", blocks(), options=options).forget, robust_weights(scores.forget, 2.0, w_max=1.5)
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_takes_its_own_options_and_refuses_those_of_others(name: str) -> None:
    others = {option for scheme in SCHEMES.values() for option in scheme.options.model_fields}
    own = SCHEMES[name].options.model_fields
    for option in sorted(others - own.keys()):
        with pytest.raises(ConfigError, match=f"scheme '{name}' has no option '{option}'; its options: ") as caught:
            SCHEMES[name].checked({option: 1})
        assert all(f"{known}=" in str(caught.value) for known in own)
    assert SCHEMES[name].checked({}) == SCHEMES[name].options()


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("influence", {"bta": 1}, "Did you mean 'beta'"),
        ("influence", {"beta": "much"}, "option beta = 'much'"),
        ("influence", {"top_k": 0}, "option top_k = 0"),
        ("random", {"w_min": 1.5}, "option w_min = 1.5"),
        ("dynamic", {"smoothing": 1.0}, "option smoothing = 1.0"),
        ("loss", {"direction": "up"}, "option direction = 'up'"),
        ("consistency", {"neighbours": float("nan")}, "option neighbours = nan"),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_value(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"scheme '{name}'")) as caught:
        scheme_weights(name, blocks(), options=options)
    assert said in str(caught.value)


@pytest.mark.filterwarnings("ignore::rapidun.weighting.WeightWarning")
def test_every_option_of_a_scheme_changes_what_it_gives() -> None:
    other = {
        "w_min": 0.5, "w_max": 1.1, "forget_temperature": 3.0, "retain_temperature": 3.0, "alpha": 2.0, "beta": 2.0,
        "gamma": 2.0, "delta": 2.0, "aggregate": "mean", "top_k": 3, "tau": 3.0, "direction": "high", "neighbours": 1.0,
    }  # fmt: skip
    known = Evidence(40, 60, gradients=blocks(0, 60), hidden=blocks(5, 60), losses=np.linspace(0.1, 3.0, 40))
    for name, scheme in SCHEMES.items():
        plain = scheme_weights(name, known, seed=1)
        for option in scheme.options.model_fields.keys() - Following.model_fields.keys():
            found = scheme_weights(name, known, seed=1, options={option: other[option]})
            same = np.array_equal(found.forget, plain.forget) and np.array_equal(found.retain, plain.retain)
            assert not same, (name, option)


def test_a_scheme_that_follows_the_model_says_how_often_without_a_class_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rapidun.weighting.schemes.SCHEMES", dict(SCHEMES))
    register_scheme("again", follows=True)(lambda evidence, generator, options: scheme_weights("uniform", evidence))
    assert schemes.SCHEMES["again"].checked({"every": 7}).every == 7


def test_self_only_ignores_the_cross_blocks() -> None:
    changed = blocks()
    changed.fr, changed.rf = changed.fr * 100, changed.rf - 7
    np.testing.assert_array_equal(
        scheme_weights("self_only", blocks()).forget, scheme_weights("self_only", changed).forget
    )


def test_uniform_is_one_everywhere_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(scheme_weights("uniform", blocks()).retain, np.ones(120))


def test_shuffled_has_the_influence_weights_on_other_rows_of_the_same_group() -> None:
    influence, shuffled = scheme_weights("influence", blocks()), scheme_weights("shuffled", blocks(), seed=1)
    assert sorted(influence.forget) == sorted(shuffled.forget)
    assert sorted(influence.retain) == sorted(shuffled.retain)
    for name in ("forget", "retain", "forget_scores", "retain_scores"):
        there, moved = getattr(influence, name), getattr(shuffled, name)
        assert (there != moved).mean() > 0.5, name  # a control whose weights stay where they were controls nothing
    order = np.argsort(influence.retain_scores, kind="stable")
    again = np.argsort(shuffled.retain_scores, kind="stable")
    np.testing.assert_array_equal(influence.retain[order], shuffled.retain[again])


def test_random_has_about_the_spread_of_influence_and_none_of_its_order() -> None:
    influence, random = scheme_weights("influence", blocks()), scheme_weights("random", blocks(), seed=1)
    assert random.retain.std() == pytest.approx(influence.retain.std(), rel=0.25)
    assert abs(np.corrcoef(random.retain, influence.retain)[0, 1]) < 0.3


@pytest.mark.parametrize("name", ["random", "shuffled"])
def test_the_seed_decides(name: str) -> None:
    first, again, other = (scheme_weights(name, blocks(), seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.forget, again.forget)
    assert not np.array_equal(first.forget, other.forget)


def test_the_blocks_of_attribution_are_taken_as_they_are() -> None:
    generator = np.random.default_rng(0)
    found = influence_blocks(
        generator.normal(size=(8, 16)).astype(np.float32), generator.normal(size=(12, 16)).astype(np.float32)
    )
    weights = scheme_weights("influence", found)
    assert (len(weights.forget), len(weights.retain)) == (8, 12)


def test_an_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'luck' is unknown; choose one of"):
        scheme_weights("luck", blocks())


def test_a_scheme_is_one_registered_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapidun.weighting.schemes.SCHEMES", dict(SCHEMES))
    register_scheme("luck")(lambda evidence, generator, options: scheme_weights("uniform", evidence))
    np.testing.assert_array_equal(scheme_weights("luck", blocks()).forget, np.ones(40))
