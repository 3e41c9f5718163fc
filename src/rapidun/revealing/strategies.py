"""Which arm to pull next: NeuralUCB and the baselines it is measured against, by name.

A strategy is told of the pulls made before it begins, then asked and told in turn. The same pulls always lead to the
same choice, which is what lets a killed search go on from its recorded pulls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rapidun.registry import Registry
from rapidun.revealing.neural_ucb import NeuralUCB
from rapidun.settings import names

Contexts = npt.NDArray[np.floating]
Pulls = list[tuple[int, float]]
"""(index of the arm, reward)."""


@dataclass(frozen=True)
class StrategyOptions:
    """What strategies can be tuned by; each takes what it knows.

    Args:
        regularisation: ``lambda`` of NeuralUCB.
        exploration: ``nu`` of NeuralUCB, and the scale of plain UCB's bonus.
        seed: Of the network's weights and of random choices.
    """

    regularisation: float = 0.1
    exploration: float = 1.0
    seed: int = 0


class Strategy(Protocol):
    """Chooses arms, by index."""

    def choose(self, count: int) -> list[int]:
        """The next ``count`` arms to pull, before what any of them gives is known; one may come more than once."""

    def learn_all(self, pulls: Pulls) -> None:
        """What arms gave, before the first choice or after one."""


Maker = Callable[[Contexts, StrategyOptions], Strategy]
STRATEGIES: Registry[Maker] = Registry(names.STRATEGIES)
register_strategy = STRATEGIES.register
"""Decorates a ``(contexts (arms, width), options) -> Strategy``."""
get_strategy = STRATEGIES.__getitem__


@register_strategy("neural_ucb")
def neural_ucb(contexts: Contexts, options: StrategyOptions) -> Strategy:
    """`NeuralUCB` on the arms' contexts."""
    return NeuralUCB(
        contexts, regularisation=options.regularisation, exploration=options.exploration, seed=options.seed
    )


class _Counting:
    """What the strategies without a network know: how often each arm was pulled and what it gave in all."""

    def __init__(self, contexts: Contexts, options: StrategyOptions) -> None:
        self.counts, self.sums = np.zeros(len(contexts), dtype=np.int64), np.zeros(len(contexts))
        self.options = options
        self.rng = np.random.default_rng([options.seed, 61])

    def learn_all(self, pulls: Pulls) -> None:
        """Count them."""
        for arm, reward in pulls:
            self.counts[arm] += 1
            self.sums[arm] += reward

    def means(self) -> npt.NDArray[np.float64]:
        """Mean reward of each arm, -inf where it was never pulled."""
        return np.where(self.counts > 0, self.sums / np.maximum(self.counts, 1), -np.inf)


@register_strategy("random")
class _Random(_Counting):
    """Arms at random, each once before any twice."""

    def choose(self, count: int) -> list[int]:
        """Any arms that were pulled least often."""
        order = self.rng.permutation(len(self.counts))
        return _dealt(order[np.argsort(self.counts[order], kind="stable")], count)


@register_strategy("ucb")
class _PlainUCB(_Counting):
    """UCB1 (Auer et al. 2002) on arms that know nothing of each other: no contexts, no network."""

    def choose(self, count: int) -> list[int]:
        """Never-pulled arms first, at random; then the highest ``mean + sqrt(2 nu ln t / n)``."""
        unseen = self.rng.permutation(np.flatnonzero(self.counts == 0))
        if len(unseen):
            return [int(arm) for arm in unseen[:count]]
        bonus = np.sqrt(2 * self.options.exploration * math.log(self.counts.sum()) / self.counts)
        return _dealt(np.argsort(-(self.means() + bonus), kind="stable"), count)


@register_strategy("greedy")
class _Greedy(_Counting):
    """The best of the initial pulls, to the end of the budget."""

    def choose(self, count: int) -> list[int]:
        """The best arm so far, again and again."""
        return [int(np.argmax(self.means())) if self.counts.any() else 0] * count


@register_strategy("seed")
class _Seed(_Counting):
    """The seed instruction alone, which is always arm 0."""

    def choose(self, count: int) -> list[int]:
        """The first arm."""
        return [0] * count


def _dealt(order: npt.NDArray[np.intp], count: int) -> list[int]:
    """The first ``count`` of ``order``, which is gone through again where it is shorter."""
    return [int(arm) for arm in np.resize(order, count)]
