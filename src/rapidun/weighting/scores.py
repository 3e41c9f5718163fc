"""Four influence blocks to one score per row: how much a row drives its own group against the other one.

``S_f = alpha * FF - beta * FR`` and ``S_r = gamma * RR - delta * RF`` (RapidUn, arXiv 2512.04457), where every
block is first aggregated over its queries. First letter = group of the row being scored, second letter = group
of the query; arrays are (scored rows, queries).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError, InputError

FloatArray = npt.NDArray[np.float64]

AGGREGATES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "median": lambda block: np.median(block, axis=1),
    "mean": lambda block: np.mean(block, axis=1),
}


class BlocksLike(Protocol):
    """Anything with the four blocks; `rapidun.attribution.Blocks` is one."""

    @property
    def ff(self) -> npt.NDArray[Any]:
        """(forget rows, forget queries)."""

    @property
    def fr(self) -> npt.NDArray[Any]:
        """(forget rows, retain queries)."""

    @property
    def rf(self) -> npt.NDArray[Any]:
        """(retain rows, forget queries)."""

    @property
    def rr(self) -> npt.NDArray[Any]:
        """(retain rows, retain queries)."""


@dataclass(frozen=True, eq=False)
class Scores:
    """One float64 score per row: ``forget`` (forget rows,), ``retain`` (retain rows,)."""

    forget: FloatArray
    retain: FloatArray


def fuse(
    blocks: BlocksLike,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    delta: float = 1.0,
    aggregate: str = "median",
    top_k: int | None = None,
    exclude_self: bool = True,
) -> Scores:
    """``S_f = alpha * FF - beta * FR``, ``S_r = gamma * RR - delta * RF``, aggregated over queries.

    Args:
        blocks: ``ff, fr, rf, rr``, each (scored rows, queries), any real dtype; computed in float64.
        alpha: Weight of forget rows on forget queries.
        beta: Weight of forget rows on retain queries; 0 with ``delta=0`` is the ablation "self-only".
        gamma: Weight of retain rows on retain queries.
        delta: Weight of retain rows on forget queries.
        aggregate: "median" (the paper) or "mean".
        top_k: Per query, keep the ``top_k`` highest scored rows and set the others to 0, before aggregating.
            The released code used 40; most scores are then exactly 0, so the default is None.
        exclude_self: Leave each row's influence on itself out of its ``ff`` and ``rr`` aggregate. A group of
            one row has no other query, so it keeps its self-influence; its weight is 1 whatever the score.

    Raises:
        InputError: If a block is empty, not 2-D, not finite, or its rows disagree with its group's other block;
            or if ``exclude_self`` meets an ``ff`` or ``rr`` that is not square.
        ConfigError: If ``aggregate`` is unknown or ``top_k`` is below 1.
    """
    reduce = _aggregate_named(aggregate)
    ff, fr, rf, rr = checked_blocks(blocks)
    if top_k is not None:
        ff, fr, rf, rr = (keep_top_k(block, top_k) for block in (ff, fr, rf, rr))
    if exclude_self:
        ff, rr = _without_diagonal(ff, "ff"), _without_diagonal(rr, "rr")
    return Scores(
        forget=alpha * reduce(ff) - beta * reduce(fr),
        retain=gamma * reduce(rr) - delta * reduce(rf),
    )


def keep_top_k(block: npt.NDArray[Any], top_k: int) -> FloatArray:
    """A float64 copy where each query (column) keeps its ``top_k`` highest rows and is 0 elsewhere.

    Ties go to the row that comes first. Kept values keep their sign: with fewer than ``top_k`` rows nothing
    changes.

    Raises:
        ConfigError: If ``top_k`` is below 1.
    """
    if top_k < 1:
        raise ConfigError(f"top_k is {top_k}; it must be at least 1, or None to keep every row.")
    values = np.asarray(block, dtype=np.float64)
    kept_rows = np.argsort(-values, axis=0, kind="stable")[:top_k]
    kept = np.zeros_like(values)
    np.put_along_axis(kept, kept_rows, np.take_along_axis(values, kept_rows, axis=0), axis=0)
    return kept


def checked_blocks(blocks: BlocksLike) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """``ff, fr, rf, rr`` as float64, after checking shapes and values.

    Raises:
        InputError: See `fuse`.
    """
    ff, fr = _matrix(blocks.ff, "ff"), _matrix(blocks.fr, "fr")
    rf, rr = _matrix(blocks.rf, "rf"), _matrix(blocks.rr, "rr")
    for first, second, names in ((ff, fr, "ff and fr"), (rr, rf, "rr and rf")):
        if first.shape[0] != second.shape[0]:
            raise InputError(
                f"blocks {names} score {first.shape[0]} and {second.shape[0]} rows; blocks that share their "
                "first letter score the same rows. Arrays are (scored rows, queries): is one transposed?"
            )
    return ff, fr, rf, rr


def _matrix(block: npt.NDArray[Any], name: str) -> FloatArray:
    values = np.asarray(block, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"block {name} has shape {values.shape}; it must be (scored rows, queries), neither 0.")
    if not np.isfinite(values).all():
        row, query = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
        raise InputError(
            f"block {name} is {values[row, query]} for scored row {row} and query {query}. Influence must be "
            "finite: compute the blocks again, in float32 or wider."
        )
    return values


def _without_diagonal(block: FloatArray, name: str) -> FloatArray:
    rows, queries = block.shape
    if rows != queries:
        raise InputError(
            f"block {name} has {rows} rows and {queries} queries, so a row's own query cannot be told from the "
            "others. Use the group's rows as its queries, or exclude_self=False."
        )
    if rows == 1:
        return block
    others: FloatArray = block[~np.eye(rows, dtype=bool)].reshape(rows, rows - 1)
    return others


def _aggregate_named(name: str) -> Callable[[FloatArray], FloatArray]:
    try:
        return AGGREGATES[name]
    except KeyError as error:
        raise ConfigError(f"aggregate is {name!r}; choose one of {', '.join(AGGREGATES)}.") from error
