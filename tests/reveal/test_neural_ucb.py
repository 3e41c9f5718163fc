"""NeuralUCB: its formulas against autograd, and that it finds a good arm sooner than what knows less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rapidun.errors import ConfigError
from rapidun.revealing.neural_ucb import NeuralUCB, Parameters, standardise
from rapidun.revealing.strategies import STRATEGIES, StrategyOptions, get_strategy


def problem(seed: int, arms: int = 150, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Contexts, and rewards in [0, 1] that depend on them smoothly but not linearly: one narrow hill."""
    rng = np.random.default_rng(seed)
    points = rng.random((arms, 3))
    centre = rng.random(3) * 0.6 + 0.2
    rewards = np.exp(-6 * ((points - centre) ** 2).sum(axis=1))
    mixing = rng.standard_normal((3, width))
    return np.tanh(points @ mixing) + 0.01 * rng.standard_normal((arms, width)), rewards


def pulls_until_best(name: str, seed: int, *, initial: int = 15, most: int = 80) -> int:
    """Pulls, the initial ones included, until one of the 2 best of 150 arms was pulled."""
    contexts, rewards = problem(seed)
    best = set(np.argsort(rewards)[-2:].tolist())
    first = np.random.default_rng([seed, 9]).permutation(len(rewards))[:initial].tolist()
    if best & set(first):
        return initial
    strategy = get_strategy(name)(contexts, StrategyOptions(seed=seed))
    strategy.learn_all([(arm, float(rewards[arm])) for arm in first])
    for pull in range(initial + 1, most + 1):
        [arm] = strategy.choose(1)
        if arm in best:
            return pull
        strategy.learn_all([(arm, float(rewards[arm]))])
    return most


def test_neural_ucb_finds_the_best_arm_in_fewer_pulls_than_random_and_plain_ucb():
    seeds = range(6)
    found = {name: [pulls_until_best(name, seed) for seed in seeds] for name in ("neural_ucb", "random", "ucb")}
    for other in ("random", "ucb"):
        assert np.mean(found["neural_ucb"]) < 0.7 * np.mean(found[other]), found
        assert sum(a <= b for a, b in zip(found["neural_ucb"], found[other], strict=True)) >= 5, found


def small(**options: Any) -> NeuralUCB:
    contexts = np.random.default_rng(0).standard_normal((6, 4))
    return NeuralUCB(contexts, hidden=5, fit_steps=20, **options)


def network(parameters: Parameters) -> torch.nn.Sequential:
    """The same network in torch."""
    built = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    arrays = (parameters[0], parameters[1], parameters[2][None], parameters[3].reshape(1))
    for mine, theirs in zip(built.parameters(), arrays, strict=True):
        mine.data = torch.tensor(theirs)
    return built


def autograd(bandit: NeuralUCB, arm: int) -> list[np.ndarray]:
    built = network(bandit.parameters)
    built(torch.tensor(bandit.contexts[arm])).sum().backward()
    return [
        each.grad.numpy().reshape(mine.shape) for each, mine in zip(built.parameters(), bandit.initial, strict=True)
    ]


def test_the_closed_gradient_is_that_of_autograd():
    bandit = small()
    bandit.learn_all([(2, 0.7)])
    for mine, theirs in zip(bandit.gradient(4), autograd(bandit, 4), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_the_fit_is_torch_adam_from_the_initial_weights_with_decay_lambda_over_t():
    bandit = small(regularisation=0.5)
    bandit.learn_all([(4, 0.2)])
    bandit.learn_all([(0, 0.9), (1, 0.1)])
    target = torch.tensor([0.2, 0.9, 0.1])
    target = (target - target.mean()) / target.std(correction=0)
    built = network(bandit.initial)
    optimiser = torch.optim.Adam(built.parameters(), lr=1e-3, weight_decay=0.5 / 3)
    for _ in range(20):
        optimiser.zero_grad()
        found = built(torch.tensor(bandit.contexts[[4, 0, 1]]))[:, 0]
        torch.nn.functional.mse_loss(found, target).backward()
        optimiser.step()
    for mine, theirs in zip(bandit.parameters, built.parameters(), strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy().reshape(mine.shape), rtol=1e-3, atol=1e-6)


def test_sigma_is_the_formula_over_all_parameters():
    bandit = small(regularisation=0.3, exploration=2.0)
    bandit.learn_all([(1, 0.4)])
    expected = [
        np.sqrt(sum((0.6 * g**2 / u).sum() for g, u in zip(autograd(bandit, arm), bandit.uncertainty, strict=True)))
        for arm in range(6)
    ]
    np.testing.assert_allclose(bandit.sigma(), expected, rtol=1e-4)


def test_arms_are_chosen_by_what_they_promise_and_by_what_is_not_known_of_them():
    contexts = np.random.default_rng(0).standard_normal((40, 4))
    bandit = NeuralUCB(contexts, hidden=5, fit_steps=20, exploration=20.0)
    bandit.learn_all([(arm, float(contexts[arm, 0])) for arm in range(6)])
    fresh = np.arange(6, 40)
    promise, unknown = bandit.predict(), bandit.sigma()
    by_both, by_promise = (fresh[np.argsort(-scores[fresh])].tolist() for scores in (promise + unknown, promise))
    assert by_both != by_promise
    assert bandit.choose(34) == by_both


def test_plain_ucb_prefers_an_arm_hardly_tried_to_one_a_little_better():
    strategy = get_strategy("ucb")(np.zeros((2, 2)), StrategyOptions())
    strategy.learn_all([(0, 0.6)] * 50 + [(1, 0.55)])
    assert strategy.choose(1) == [1]


def test_u_starts_at_lambda_and_grows_by_the_squared_gradient_of_the_pulled_arm():
    bandit = small(regularisation=0.1)
    assert all(bool((each == 0.1).all()) for each in bandit.uncertainty)
    before = autograd(bandit, 3)
    bandit.learn_all([(3, 0.5)])
    for total, gradient in zip(bandit.uncertainty, before, strict=True):
        np.testing.assert_allclose(total, 0.1 + gradient**2, rtol=1e-5)


def test_no_arm_is_pulled_twice_before_every_arm_was_pulled_once():
    bandit = small()
    chosen = []
    for _ in range(6):
        chosen += bandit.choose()
        bandit.learn_all([(chosen[-1], 1.0 if chosen[-1] == 0 else 0.0)])
    assert sorted(chosen) == list(range(6))
    assert bandit.choose()[0] in range(6)


def test_the_scale_of_the_rewards_does_not_change_the_choices():
    one, ten = small(), small()
    for _ in range(4):
        assert one.choose() == ten.choose()
        [arm] = one.choose()
        one.learn_all([(arm, float(np.sin(arm)))])
        ten.learn_all([(arm, float(10 * np.sin(arm) + 3))])


def test_pulling_an_arm_lowers_its_uncertainty():
    bandit = small()
    before = bandit.sigma()
    bandit.learn_all([(2, float(bandit.predict()[2]))])
    assert bandit.sigma()[2] < 0.8 * before[2]


def test_contexts_are_standardised_and_constant_columns_dropped_to_zero():
    raw = np.stack([np.arange(5.0), np.full(5, 1e4), 100 + np.arange(5.0) ** 2], axis=1)
    found = standardise(raw)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose((found[:, [0, 2]] ** 2).mean(axis=0), 1 / 3, rtol=1e-5)
    assert not found[:, 1].any()
    with pytest.raises(ValueError, match="not finite"):
        standardise(np.array([[np.nan]]))


def test_the_baselines_do_what_their_names_say():
    contexts = np.zeros((4, 2))
    made = {name: STRATEGIES[name](contexts, StrategyOptions()) for name in ("greedy", "seed", "random", "ucb")}
    for strategy in made.values():
        strategy.learn_all([(1, 0.2), (2, 0.6)])
    assert made["greedy"].choose(2) == [2, 2]
    assert made["seed"].choose(2) == [0, 0]
    assert made["random"].choose(1)[0] in (0, 3)
    assert set(made["ucb"].choose(2)) == {0, 3}
    for arm, reward in ((0, 0.9), (3, 0.0)):
        made["ucb"].learn_all([(arm, reward)])
    assert made["ucb"].choose(1) == [0]


def test_an_unknown_strategy_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'neural_ucb'"):
        get_strategy("neural_ubc")
