"""NeuralUCB with a diagonal covariance (Zhou, Li and Gu 2020, algorithm 1; its released code's diagonal ``U``).

The score of an arm with context ``x`` is ``f(x) + sigma(x)``: what a small network predicts, plus how far the network
could still be wrong there::

    f(x)     = w2 . relu(W1 x + b1) + b2                        one hidden layer of 100
    sigma(x) = sqrt(sum_p lambda * nu * g_p(x)^2 / U_p)         g = gradient of f(x) by every parameter p
    U        = lambda at the start;  U += g(x*)^2 for each arm x* that is pulled

After each pull the network is fitted to all rewards so far, from the same initial weights (Adam, mean squared error,
weight decay ``lambda / t``). Contexts are standardised over the arms and divided by the root of their width, because
the method assumes contexts of length 1 (its section 3); rewards are standardised over the pulls before a fit, so that
``f`` and ``sigma`` have one scale. Without either, ``sigma`` hides ``f`` and the choice is close to random
(``tests/reveal/test_neural_ucb.py``).

The gradient of one hidden layer is an outer product, so ``sigma`` of all arms is two matrix products, and no gradient
is ever stored for each arm. It is written out in numpy: on a network of this size a framework's call costs more than
its arithmetic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

HIDDEN = 100
FIT_STEPS = 200
LEARNING_RATE = 1e-3
_DECAYS = (0.9, 0.999)  # Adam's, of the mean and of the square
_EPSILON = 1e-8

Array = npt.NDArray[np.float32]


class Parameters(NamedTuple):
    """One array for each parameter of the network, or anything of the same shapes."""

    weight1: Array  # (hidden, width)
    bias1: Array  # (hidden,)
    weight2: Array  # (hidden,)
    bias2: Array  # ()


class NeuralUCB:
    """Chooses arms by their contexts.

    Args:
        contexts: (arms, width), any float dtype.
        regularisation: ``lambda``: what ``U`` starts with, and the weight decay times the number of pulls.
        exploration: ``nu``: scale of the squared uncertainty.
        hidden: Units of the hidden layer.
        fit_steps: Steps of Adam after each pull.
        seed: Of the initial weights.
    """

    def __init__(
        self,
        contexts: npt.NDArray[np.floating],
        *,
        regularisation: float = 0.1,
        exploration: float = 1.0,
        hidden: int = HIDDEN,
        fit_steps: int = FIT_STEPS,
        seed: int = 0,
    ) -> None:
        self.contexts = standardise(contexts)
        self.regularisation, self.exploration, self.fit_steps = regularisation, exploration, fit_steps
        self.initial = _initial(self.contexts.shape[1], hidden, seed)
        self.parameters = self.initial
        self.uncertainty = Parameters(*(np.full_like(each, regularisation) for each in self.initial))
        self.pulled: list[int] = []
        self.rewards: list[float] = []

    def choose(self, count: int = 1) -> list[int]:
        """The arms with the highest ``f + sigma`` among those not pulled yet; among all once every one was.

        A pull is kept (its answers depend on arm and seed alone), so to pull an arm again would tell nothing new. More
        than one at a time is the batched form (Gu et al. 2021, Batched Neural Bandits): fewer fits, larger batches.
        """
        scores = self.predict() + self.sigma()
        fresh = np.ones(len(scores), dtype=bool)
        fresh[self.pulled] = False
        order = np.argsort(np.where(fresh, -scores, np.inf) if fresh.any() else -scores, kind="stable")
        return [int(arm) for arm in order[: min(count, int(fresh.sum()) or len(order))]]

    def learn_all(self, pulls: list[tuple[int, float]]) -> None:
        """Count pulls, all by the network as it is (``U += g^2``), with one fit at their end."""
        for arm, reward in pulls:
            squares = (gradient**2 for gradient in self.gradient(arm))
            self.uncertainty = Parameters(*map(np.add, self.uncertainty, squares))
            self.pulled.append(arm)
            self.rewards.append(reward)
        if pulls:
            self.parameters = self._fit()

    def predict(self) -> Array:
        """``f`` of every arm in standard deviations of the rewards so far, (arms,)."""
        return _hidden(self.parameters, self.contexts).clip(0) @ self.parameters.weight2 + self.parameters.bias2

    def sigma(self) -> Array:
        """``sigma`` of every arm, (arms,)."""
        before = _hidden(self.parameters, self.contexts)
        by_bias1 = ((before > 0) * self.parameters.weight2) ** 2  # (arms, hidden): squared gradient by b1
        u = self.uncertainty
        # gradient by W1 is outer(gradient by b1, x): "nh,hi,ni->n" without the (arms, hidden, width) array
        total = ((by_bias1 @ (1 / u.weight1)) * self.contexts**2).sum(axis=1)
        total = total + by_bias1 @ (1 / u.bias1) + before.clip(0) ** 2 @ (1 / u.weight2) + 1 / u.bias2
        found: Array = np.sqrt(self.regularisation * self.exploration * total)
        return found

    def gradient(self, arm: int) -> Parameters:
        """Gradient of ``f`` at one arm by every parameter."""
        context = self.contexts[arm]
        before = _hidden(self.parameters, context)
        by_bias1 = (before > 0) * self.parameters.weight2
        return Parameters(np.outer(by_bias1, context), by_bias1, before.clip(0), np.ones((), dtype=np.float32))

    def _fit(self) -> Parameters:
        """The parameters after Adam on all pulls, from the initial ones."""
        contexts, rewards = self.contexts[self.pulled], np.array(self.rewards, dtype=np.float32)
        target = (rewards - rewards.mean()) / (rewards.std() if rewards.std() > 0 else 1)
        decay = self.regularisation / len(target)
        now = [each.copy() for each in self.initial]
        means, squares = ([np.zeros_like(each) for each in now] for _ in range(2))
        for step in range(1, self.fit_steps + 1):
            slope = _squared_error_slope(Parameters(*now), contexts, target)
            rate = LEARNING_RATE * math.sqrt(1 - _DECAYS[1] ** step) / (1 - _DECAYS[0] ** step)
            for value, mean, square, gradient in zip(now, means, squares, slope, strict=True):
                total = gradient + decay * value
                mean[...] = _DECAYS[0] * mean + (1 - _DECAYS[0]) * total
                square[...] = _DECAYS[1] * square + (1 - _DECAYS[1]) * total**2
                value[...] -= rate * mean / (np.sqrt(square) + _EPSILON * math.sqrt(1 - _DECAYS[1] ** step))
        return Parameters(*now)


def standardise(contexts: npt.NDArray[np.floating]) -> Array:
    """(arms, width) float32, every column with mean 0 and variance ``1/width`` over the arms, or 0 if it is constant.

    A row then has a length of about 1.

    Raises:
        ValueError: If there are no arms or a value is not finite.
    """
    values = np.asarray(contexts, dtype=np.float64)
    if values.ndim != 2 or len(values) == 0:
        raise ValueError(f"contexts are (arms, width) with at least one arm; these are {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("contexts hold values that are not finite")
    centred, spread = values - values.mean(axis=0), values.std(axis=0)
    # A column that only differs by rounding must not become a feature.
    constant = spread <= 1e-6 * np.abs(values).max(axis=0)
    scaled = np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))
    return (scaled / math.sqrt(values.shape[1])).astype(np.float32)


def _initial(width: int, hidden: int, seed: int) -> Parameters:
    """Uniform in ``+-1/sqrt(fan in)``, as `torch.nn.Linear` begins."""
    rng = np.random.default_rng([seed, 60])

    def uniform(*shape: int, fan_in: int) -> Array:
        return np.asarray(rng.uniform(-1, 1, shape) / math.sqrt(fan_in), dtype=np.float32)

    return Parameters(
        uniform(hidden, width, fan_in=width),
        uniform(hidden, fan_in=width),
        uniform(hidden, fan_in=hidden),
        uniform(fan_in=hidden),
    )


def _hidden(parameters: Parameters, contexts: Array) -> Array:
    """``W1 x + b1`` of each row, before the ReLU."""
    found: Array = contexts @ parameters.weight1.T + parameters.bias1
    return found


def _squared_error_slope(parameters: Parameters, contexts: Array, target: Array) -> Parameters:
    """Gradient of ``mean (f(x) - r)^2`` by every parameter."""
    before = _hidden(parameters, contexts)
    after = before.clip(0)
    error = (2 / len(target)) * (after @ parameters.weight2 + parameters.bias2 - target)
    by_hidden = (before > 0) * np.outer(error, parameters.weight2)
    return Parameters(by_hidden.T @ contexts, by_hidden.sum(axis=0), after.T @ error, np.asarray(error.sum()))
