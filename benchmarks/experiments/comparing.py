"""Arms of a table beside each other: ranks, paired differences, wins, and who is beaten by nobody.

An interval's unit is the scenario where there are several, else the seed: `rapidun.stats` says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rapidun.stats import Interval, over_units

Block = tuple[str, int]
"""(scenario, seed): the same rows for every arm."""
Values = Mapping[str, Mapping[Block, float]]
"""{arm: {block: value}}."""


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
    """Difference of two arms over the units that both have.

    Args:
        difference: Mean of ours less theirs, with its t interval; below 0 is better.
        t_test: p-value of the paired t-test, two-sided; None where it is not defined (fewer than two pairs, or all
            differ alike).
        wilcoxon: p-value of Wilcoxon's signed-rank test, two-sided; None likewise.
    """

    difference: Interval
    t_test: float | None
    wilcoxon: float | None


def paired(ours: Mapping[Block, float], theirs: Mapping[Block, float]) -> Paired | None:
    """Compare two arms where both have a finite value; None where they have none together.

    Blocks of one scenario are units. Blocks of several scenarios share more than a scenario's do, so there each
    scenario is one unit, by its mean difference.
    """
    from scipy.stats import ttest_1samp, wilcoxon

    shared = sorted(
        block for block in set(ours) & set(theirs) if math.isfinite(ours[block]) and math.isfinite(theirs[block])
    )
    differences, unit = _by_unit({block: ours[block] - theirs[block] for block in shared})
    difference = over_units(differences, unit)
    if difference is None:
        return None
    tested = len(differences) > 1 and any(differences)
    varied = tested and float(np.ptp(differences)) > 1e-9  # without spread the statistic is a division by rounding
    t_test = float(ttest_1samp(differences, 0.0).pvalue) if varied else None
    signed = float(wilcoxon(differences).pvalue) if tested else None
    return Paired(difference, t_test, signed)


@dataclass(frozen=True)
class Wins:
    """On how many shared blocks ours is lower, equal and higher; a failed training (infinite) is above everything.

    Args:
        won: Blocks on which ours is lower.
        tied: Blocks on which both are equal, or both failed.
        lost: Blocks on which ours is higher.
        wilcoxon: p-value of Wilcoxon's signed-rank test over units (as in `paired`), two-sided, with a difference to a
            failed training as the largest; None for fewer than two units, or where none differs.
        n: Units.
        unit: "draws" or "scenarios".
    """

    won: int
    tied: int
    lost: int
    wilcoxon: float | None
    n: int
    unit: str


def wins(ours: Mapping[Block, float], theirs: Mapping[Block, float]) -> Wins | None:
    """Compare two arms on the blocks that both have, failed trainings included; None where there are none."""
    from scipy.stats import wilcoxon

    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return None
    apart = np.array([0.0 if ours[block] == theirs[block] else ours[block] - theirs[block] for block in shared])
    largest = 1.0 + np.abs(apart[np.isfinite(apart)]).max(initial=0.0)
    apart = np.clip(apart, -largest, largest)
    differences, unit = _by_unit(dict(zip(shared, apart.tolist(), strict=True)))
    p = float(wilcoxon(differences).pvalue) if len(differences) > 1 and any(differences) else None
    return Wins(int((apart < 0).sum()), int((apart == 0).sum()), int((apart > 0).sum()), p, len(differences), unit)


def _by_unit(differences: Mapping[Block, float]) -> tuple[list[float], str]:
    """One difference a draw of a single scenario; of several, one a scenario."""
    scenarios: dict[str, list[float]] = {}
    for (scenario, _), difference in differences.items():
        scenarios.setdefault(scenario, []).append(difference)
    if len(scenarios) < 2:
        return list(differences.values()), "draws"
    return [float(np.mean(found)) for found in scenarios.values()], "scenarios"


def pareto(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """The names whose (x, y) no other point beats in one and matches in the other; lower is better."""
    return {
        name
        for name, (x, y) in points.items()
        if not any(a <= x and b <= y and (a < x or b < y) for a, b in points.values())
    }
