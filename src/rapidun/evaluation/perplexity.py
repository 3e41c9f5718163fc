"""Perplexity on clean rows: ``exp(total answer loss / total answer tokens)``, never a mean of means.

Intervals are percentile bootstraps over rows, because tokens of one row are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from rapidun.errors import InputError, ModelError
from rapidun.stats import bootstrap

if TYPE_CHECKING:  # what is stored is computed again without torch
    from rapidun.data.batches import Example
    from rapidun.models import LoadedModel
    from rapidun.models.passes import Progress

FloatArray = npt.NDArray[np.float64]

_LARGEST_EXPONENT = 700.0
"""A model so broken that its perplexity would overflow gets ``exp(700)``, which JSON can hold."""


@dataclass(frozen=True, eq=False)
class PerplexityResult:
    """Perplexity with its 95% interval.

    Args:
        value: ``exp(sum(row_losses) / sum(row_tokens))``.
        low: Lower end of the interval.
        high: Upper end of the interval.
        n: Number of rows.
        row_losses: (rows,) float64, loss summed over each row's answer tokens, in the order of the rows.
        row_tokens: (rows,) int64, answer tokens of each row.
    """

    value: float
    low: float
    high: float
    n: int
    row_losses: FloatArray
    row_tokens: npt.NDArray[np.int64]

    @classmethod
    def from_rows(cls, row_losses: FloatArray, row_tokens: npt.NDArray[np.int64], *, seed: int = 0) -> PerplexityResult:
        """The perplexity of rows whose losses are known.

        Raises:
            InputError: If there are no answer tokens.
        """
        _check_tokens(row_tokens)
        value, low, high = _over_rows(row_losses, row_tokens, seed)
        return cls(value, low, high, len(row_tokens), row_losses, row_tokens)


class PerplexityRatio(NamedTuple):
    """Perplexity after over perplexity before, with its 95% interval."""

    value: float
    low: float
    high: float


def clean_perplexity(
    loaded: LoadedModel,
    examples: Sequence[Example],
    *,
    max_tokens: int = 4096,
    seed: int = 0,
    progress: Progress | None = None,
) -> PerplexityResult:
    """Perplexity of the model on the answers of ``examples``, dropout off.

    Args:
        loaded: Model, tokenizer and device; the model is left as it was.
        examples: Tokenised clean rows.
        max_tokens: Padded tokens in a batch; changes speed and memory, not the result.
        seed: Seed of the bootstrap.
        progress: Called with (rows done, all rows).

    Raises:
        InputError: If there are no rows or no answer tokens.
        ModelError: If a row's loss is not finite; names the row.
    """
    from rapidun.data.special import padding_id
    from rapidun.models.row_losses import row_losses

    pad = padding_id(loaded.tokenizer)
    sums, tokens = row_losses(loaded.model, examples, pad, loaded.device, max_tokens=max_tokens, progress=progress)
    broken = np.flatnonzero(~np.isfinite(sums))
    if broken.size:
        raise ModelError(
            f"the loss of row {examples[broken[0]].id} is {sums[broken[0]]}: the model gives no numbers. "
            "Training may have diverged, or the dtype is too narrow; try float32."
        )
    return PerplexityResult.from_rows(sums, tokens, seed=seed)


def perplexity_ratio(before: PerplexityResult, after: PerplexityResult, *, seed: int = 0) -> PerplexityRatio:
    """``after / before`` on the same rows, with a paired bootstrap: rows are drawn once for both.

    Raises:
        InputError: If the two were not measured on the same rows.
    """
    if not np.array_equal(before.row_tokens, after.row_tokens):
        raise InputError(
            f"perplexity was measured on {before.n} rows ({before.row_tokens.sum()} answer tokens) before and on "
            f"{after.n} rows ({after.row_tokens.sum()} answer tokens) after; measure both on the same rows."
        )
    _check_tokens(before.row_tokens)
    change, tokens = after.row_losses - before.row_losses, before.row_tokens
    return PerplexityRatio(*_over_rows(change, tokens, seed))


def _exp_mean(losses: FloatArray, tokens: npt.NDArray[np.int64]) -> float:
    # A resample may by chance hold only rows without answer tokens; it then says nothing: exp(0).
    return math.exp(min(float(losses.sum()) / max(int(tokens.sum()), 1), _LARGEST_EXPONENT))


def _over_rows(losses: FloatArray, tokens: npt.NDArray[np.int64], seed: int) -> tuple[float, float, float]:
    """Value and ends; of a single row, which shows no variation, the ends are the value."""
    found = bootstrap(_exp_mean, losses, tokens, unit="rows", seed=seed)
    ends = [found.value if end is None else end for end in (found.low, found.high)]
    return found.value, ends[0], ends[1]


def _check_tokens(row_tokens: npt.NDArray[np.int64]) -> None:
    if row_tokens.sum() == 0:
        raise InputError("perplexity needs rows with answer tokens, and there are none. Are the rows empty?")
