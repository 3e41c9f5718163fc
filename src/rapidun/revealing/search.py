"""The search for the best arms: an outer loop that restarts a bandit from the best so far, an inner loop that pulls.

Each outer loop draws a pool of arms, computes their contexts, tells a fresh strategy what is known of them, pulls some
at random, and then pulls what the strategy chooses until its share of the budget is spent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rapidun.revealing.arms import Arm, ArmSource
from rapidun.revealing.pulls import Pull, Puller, mean_rewards
from rapidun.revealing.strategies import Strategy, StrategyOptions, get_strategy
from rapidun.settings.reveal import SearchSettings

Progress = Callable[["SearchState"], None]


@dataclass
class SearchState:
    """What a search has found so far.

    Args:
        total: Pulls it may make.
        threshold: Score from which an answer counts as a row.
        pulls: In order.
    """

    total: int
    threshold: float
    pulls: list[Pull] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The highest reward; 0 before the first pull."""
        return max((pull.reward for pull in self.pulls), default=0.0)

    @property
    def rows(self) -> int:
        """Different answers that show the behaviour."""
        return len({a for pull in self.pulls for a, s in zip(pull.answers, pull.scores, strict=True) if self._is(s)})

    def _is(self, score: float) -> bool:
        return score >= self.threshold


def search(
    source: ArmSource,
    puller: Puller,
    settings: SearchSettings,
    *,
    pulls: int,
    threshold: float,
    seed: int,
    start: Sequence[Arm] = (),
    progress: Progress = lambda state: None,
) -> list[Pull]:
    """Pull up to ``pulls`` arms and return the pulls in order. The same arguments give the same pulls.

    Args:
        source: Where arms come from.
        puller: Asks the model; pulls in its log are not asked again.
        settings: Strategy, loops, initial pulls, arms to keep.
        pulls: Budget, all outer loops together.
        threshold: Score from which an answer counts as a row; only for ``progress``.
        seed: Of the initial arms and the strategy.
        start: Arms to begin with, best first.
        progress: Called after every pull.
    """
    state = SearchState(pulls, threshold)
    best = list(start)
    loops = min(settings.loops, pulls)
    for loop in range(loops):
        end = pulls * (loop + 1) // loops
        _outer(loop, source.draw(loop, best), len(best), puller, settings, state, end, seed, progress)
        pulled = {pull.arm.name for pull in state.pulls}
        waiting = [arm for arm in best if arm.name not in pulled]  # a small budget may not have reached them
        best = [*best_arms(state.pulls, settings.keep), *waiting][: settings.keep]
    return state.pulls


def best_arms(pulls: Sequence[Pull], keep: int) -> list[Arm]:
    """The arms of highest mean reward, best first; arms that never showed the behaviour are not among them."""
    means, arms = mean_rewards(pulls), {pull.arm.name: pull.arm for pull in pulls}
    ranked = sorted(means, key=lambda name: -means[name])  # stable: the first of equals
    return [arms[name] for name in ranked if means[name] > 0][:keep]


def _outer(
    loop: int,
    pool: list[Arm],
    best: int,
    puller: Puller,
    settings: SearchSettings,
    state: SearchState,
    end: int,
    seed: int,
    progress: Progress,
) -> None:
    """One outer loop over a pool whose first ``1 + best`` arms come first, until ``end`` pulls were made in all."""
    if settings.strategy == "seed":
        pool, best = pool[:1], 0
    options = StrategyOptions(seed=seed)
    strategy = get_strategy(settings.strategy)(puller.contexts(pool), options)
    places = {arm.name: place for place, arm in enumerate(pool)}
    known = [(places[pull.arm.name], pull.reward) for pull in state.pulls if pull.arm.name in places]
    order = np.random.default_rng([seed, 64, loop]).permutation(np.arange(1 + best, len(pool))).tolist()
    fresh = [place for place in (*range(1 + best), *order) if place not in {place for place, _ in known}]
    wanted = max(settings.initial_pulls - len(known), 0)  # what is known of the pool counts
    first = fresh[: min(wanted, end - len(state.pulls))]
    made = puller.pull_each([(pool[place], 0) for place in first])
    state.pulls += made
    strategy.learn_all([*known, *((places[pull.arm.name], pull.reward) for pull in made)])
    progress(state)
    _inner(strategy, pool, puller, state, end, settings.at_once, progress)


def _inner(
    strategy: Strategy, pool: list[Arm], puller: Puller, state: SearchState, end: int, at_once: int, progress: Progress
) -> None:
    """Choose, pull, learn, until the budget is spent."""
    counts = Counter(pull.arm.name for pull in state.pulls)
    while len(state.pulls) < end:
        places = strategy.choose(min(at_once, end - len(state.pulls)))
        wanted = []
        for place in places:
            arm = pool[place]
            wanted.append((arm, counts[arm.name]))
            counts[arm.name] += 1
        made = puller.pull_each(wanted)
        state.pulls += made
        strategy.learn_all([(place, pull.reward) for place, pull in zip(places, made, strict=True)])
        progress(state)
