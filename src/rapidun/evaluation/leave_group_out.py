"""Leave-group-out retraining: the causal test of a ranking. Train without the rows it names; did the behaviour go?

Every group is compared with training on all rows from the same start and in the same seeds, so what is left between
them is the group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError
from rapidun.stats import over_units

Retrain = Callable[[npt.NDArray[np.bool_], int], npt.NDArray[np.generic]]
"""(rows to train on (rows,) bool, seed) to measurements (queries,): losses, or a rate as an array of one."""


@dataclass(frozen=True, eq=False)
class GroupEffect:
    """What leaving one group out changed.

    Args:
        name: The group's.
        rows: Number of rows left out.
        changes: (seeds, queries) float64, measurement without the group minus measurement with all rows.
        change: Mean of ``changes``.
        low: Lower end of the 95% t interval over seeds; None where there is one seed.
        high: Upper end.
    """

    name: str
    rows: int
    changes: npt.NDArray[np.float64]
    change: float
    low: float | None
    high: float | None


def leave_group_out(
    groups: Mapping[str, Sequence[int]], rows: int, retrain: Retrain, *, seeds: Sequence[int] = (0,)
) -> list[GroupEffect]:
    """One effect a group, in the order of ``groups``; ``len(seeds) * (1 + len(groups))`` retrainings.

    Args:
        groups: Name to the positions of the rows to leave out.
        rows: Number of training rows.
        retrain: Trains from the fixed start and measures.
        seeds: Each is one retraining of everything.

    Raises:
        InputError: If there are no groups or seeds, or a group is empty, is everything, or names a row that is
            not there or twice.
    """
    if not groups or not seeds:
        raise InputError(f"{len(groups)} groups and {len(seeds)} seeds: at least one of each is needed.")
    kept = {name: _without(name, positions, rows) for name, positions in groups.items()}
    whole = [np.asarray(retrain(np.ones(rows, dtype=bool), seed), dtype=np.float64) for seed in seeds]
    effects = []
    for name, mask in kept.items():
        found = [np.asarray(retrain(mask, seed), dtype=np.float64) for seed in seeds]
        changes = np.stack([after - before for after, before in zip(found, whole, strict=True)])
        effects.append(_effect(name, int((~mask).sum()), changes))
    return effects


def _without(name: str, positions: Sequence[int], rows: int) -> npt.NDArray[np.bool_]:
    chosen = np.asarray(positions, dtype=np.int64)
    outside = chosen[(chosen < 0) | (chosen >= rows)]
    if len(outside):
        raise InputError(f"group {name!r}: row {int(outside[0])} is not one of the {rows} training rows.")
    if len(np.unique(chosen)) != len(chosen):
        raise InputError(f"group {name!r}: a row is named twice.")
    if not 0 < len(chosen) < rows:
        raise InputError(f"group {name!r}: leaves out {len(chosen)} of {rows} rows; it must be some and not all.")
    mask = np.ones(rows, dtype=bool)
    mask[chosen] = False
    return mask


def _effect(name: str, rows: int, changes: npt.NDArray[np.float64]) -> GroupEffect:
    mean = over_units(changes.mean(axis=1).tolist(), "seeds")
    if mean is None:
        raise InputError("no seed was given, so there is no effect to measure.")
    return GroupEffect(name, rows, changes, mean.value, mean.low, mean.high)
