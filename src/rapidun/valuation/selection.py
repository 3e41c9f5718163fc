"""Which rows to take: the best so many, as many as a budget of tokens holds, or all above a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError
from rapidun.settings.value import Selection

Ordinals = npt.NDArray[np.int64]
LARGEST_DIVERSE = 20_000


def choose(
    selection: Selection, values: npt.NDArray[np.generic], tokens: npt.NDArray[np.integer] | None = None
) -> Ordinals:
    """Ordinals of the chosen rows, best first; equal values in the pool's order.

    A budget is filled from the best row down: a row that does not fit into what is left is passed over, so the sum of
    tokens never exceeds it and no row that is passed over would still fit.

    Args:
        selection: What to choose.
        values: (rows,).
        tokens: (rows,), for a budget.

    Raises:
        ConfigError: If a budget is asked for without tokens.
    """
    numbers = np.asarray(values, dtype=np.float64)
    order = np.argsort(-numbers, kind="stable")
    if selection.kind == "threshold":
        return order[: int((numbers >= selection.amount).sum())]
    if selection.kind == "top":
        return order[: selection.count(len(order))]
    return within_budget(order, _tokens(tokens), selection.amount)


def within_budget(order: Sequence[int] | Ordinals, tokens: npt.NDArray[np.integer], budget: float) -> Ordinals:
    """The rows of ``order`` that fit, each into what those before it left."""
    taken, left = [], int(budget)
    smallest = int(tokens.min()) if len(tokens) else 0
    for row in order:
        cost = int(tokens[row])
        if cost <= left:
            taken.append(int(row))
            left -= cost
        if left < smallest:
            break
    return np.array(taken, dtype=np.int64)


def check_diverse(rows: int, limit: int = LARGEST_DIVERSE) -> None:
    """Refuse a diverse selection of so many rows: its cost grows with their square.

    Raises:
        ConfigError: Naming both numbers.
    """
    if rows > limit:
        raise ConfigError(f"--diversity chooses at most {limit} rows, and this selection has {rows}. Leave it out.")


def shortlist(
    selection: Selection,
    values: npt.NDArray[np.generic],
    tokens: npt.NDArray[np.integer] | None = None,
    *,
    factor: int = 4,
    limit: int = LARGEST_DIVERSE,
) -> Ordinals:
    """The rows that a diverse selection chooses among: the best ``factor`` times as many, best first.

    At least as many as the plain selection takes, and at most ``limit``.

    Raises:
        ConfigError: For a threshold, which takes every row above it and leaves nothing to choose; or if the plain
            selection alone is larger than ``limit``.
    """
    if selection.kind == "threshold":
        raise ConfigError("--diversity chooses among good rows: it goes with --select top:... or budget:...")
    plain = choose(selection, values, tokens)
    check_diverse(len(plain), limit)
    amount = min(factor * selection.amount, 1.0) if selection.share else factor * selection.amount
    wide = choose(Selection(selection.kind, amount, selection.share), values, tokens)
    return wide[: max(len(plain), min(len(wide), limit))]


def choose_diverse(
    selection: Selection, candidates: Ordinals, picked: Sequence[int], tokens: npt.NDArray[np.integer] | None = None
) -> Ordinals:
    """The selection among ``candidates``, in the order of a diverse pick (``picked``: places in ``candidates``)."""
    order = candidates[np.asarray(picked, dtype=np.int64)]
    if selection.kind == "budget":
        return within_budget(order, _tokens(tokens), selection.amount)
    return order


def _tokens(tokens: npt.NDArray[np.integer] | None) -> npt.NDArray[np.integer]:
    if tokens is None:
        raise ConfigError("a budget needs the number of tokens of every row.")
    return tokens
