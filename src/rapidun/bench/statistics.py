"""Numbers over seeds: intervals, mean ranks, paired tests. Nothing is filled in where a cell is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Block = tuple[str, int]
"""(scenario, seed): the same rows for every arm."""
Values = Mapping[str, Mapping[Block, float]]
"""{arm: {block: value}}."""


@dataclass(frozen=True)
class Mean:
    """Mean over seeds with its 95% t interval, None for fewer than two seeds."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float]) -> Mean | None:
    """The mean of the values there are; None where there are none."""
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return None
    mean = float(np.mean(values))
    if n == 1:
        return Mean(mean, None, None, 1)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Mean(mean, mean - half, mean + half, n)


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of the arms over the blocks in which all of them have a value (1 is best, ties share)."""

    ranks: dict[str, float]
    blocks: int
    by_scenario: dict[str, int]


def mean_ranks(values: Values, arms: Iterable[str]) -> Ranks:
    """Ranks by ascending value; an infinite value (a training that failed) ranks last."""
    from scipy.stats import rankdata

    names = list(arms)
    shared = sorted(set.intersection(*(set(values.get(name, {})) for name in names))) if names else []
    counts: dict[str, int] = {}
    for scenario, _ in shared:
        counts[scenario] = counts.get(scenario, 0) + 1
    if not shared:
        return Ranks({}, 0, {})
    ranked = np.array([rankdata([values[name][block] for name in names]) for block in shared])
    return Ranks(dict(zip(names, ranked.mean(axis=0).tolist(), strict=True)), len(shared), counts)


@dataclass(frozen=True)
class Paired:
    """Difference of two arms over the blocks that both have.

    Args:
        difference: Mean of ours less theirs; below 0 is better.
        low: Lower end of the 95% t interval; None for fewer than two pairs.
        high: Upper end.
        n: Pairs.
        t_test: p-value of the paired t-test, two-sided; None where it is not defined (fewer than two pairs, or all
            differ alike).
        wilcoxon: p-value of Wilcoxon's signed-rank test, two-sided; None likewise.
    """

    difference: float
    low: float | None
    high: float | None
    n: int
    t_test: float | None
    wilcoxon: float | None


def paired(ours: Mapping[Block, float], theirs: Mapping[Block, float]) -> Paired | None:
    """Compare two arms on the blocks where both have a finite value; None where there are none."""
    from scipy.stats import ttest_rel, wilcoxon

    blocks = sorted(
        block for block in set(ours) & set(theirs) if math.isfinite(ours[block]) and math.isfinite(theirs[block])
    )
    one, other = ([each[block] for block in blocks] for each in (ours, theirs))
    differences = [a - b for a, b in zip(one, other, strict=True)]
    mean = mean_interval(differences)
    if mean is None:
        return None
    tested = len(blocks) > 1 and any(differences)
    varied = tested and float(np.ptp(differences)) > 1e-9  # without spread the statistic is a division by rounding
    t_test = float(ttest_rel(one, other).pvalue) if varied else None
    signed = float(wilcoxon(one, other).pvalue) if tested else None
    return Paired(mean.value, mean.low, mean.high, mean.n, t_test, signed)


@dataclass(frozen=True)
class Wins:
    """On how many shared blocks ours is lower, equal and higher; a failed training (infinite) is above everything.

    Args:
        won: Blocks on which ours is lower.
        tied: Blocks on which both are equal, or both failed.
        lost: Blocks on which ours is higher.
        wilcoxon: p-value of Wilcoxon's signed-rank test, two-sided, with a difference to a failed training as the
            largest; None where no block differs.
    """

    won: int
    tied: int
    lost: int
    wilcoxon: float | None


def wins(ours: Mapping[Block, float], theirs: Mapping[Block, float]) -> Wins | None:
    """Compare two arms on the blocks that both have, failed trainings included; None where there are none."""
    from scipy.stats import wilcoxon

    pairs = [(ours[block], theirs[block]) for block in sorted(set(ours) & set(theirs))]
    if not pairs:
        return None
    differences = np.array([0.0 if one == other else one - other for one, other in pairs])
    finite = np.abs(differences[np.isfinite(differences)])
    differences = np.clip(differences, *(side * (1.0 + finite.max(initial=0.0)) for side in (-1, 1)))
    p = float(wilcoxon(differences).pvalue) if differences.any() else None
    return Wins(int((differences < 0).sum()), int((differences == 0).sum()), int((differences > 0).sum()), p)


def pareto(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """The names whose (x, y) no other point beats in one and matches in the other; lower is better."""
    return {
        name
        for name, (x, y) in points.items()
        if not any(a <= x and b <= y and (a < x or b < y) for a, b in points.values())
    }
