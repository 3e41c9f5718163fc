"""Which rows of a pool the teacher looks at: at random, spread over lengths, or where a committee disagrees.

Rows are ordinals, their places in the pool. All draws depend on the generator alone.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rapidun.errors import ConfigError
from rapidun.settings.value import check_sample_text

Ordinals = npt.NDArray[np.int64]


def sample_size(text: str, rows: int) -> int:
    """``"5%"`` or ``"500"`` of a pool of ``rows`` rows, rounded up.

    Raises:
        ConfigError: If it is neither, is not above 0, or is more than the pool.
    """
    check_sample_text(text)
    count = math.ceil(rows * float(text[:-1]) / 100 - 1e-9) if text.endswith("%") else int(text)
    if not 0 < count <= rows:
        raise ConfigError(f"--sample {text}: that is {count} of {rows} rows. Give more than 0 and at most all.")
    return count


def random_sample(rows: int, count: int, generator: np.random.Generator) -> Ordinals:
    """``count`` of ``rows`` ordinals without replacement, ascending."""
    return np.sort(generator.choice(rows, count, replace=False))


def stratified_sample(lengths: npt.NDArray[np.generic], count: int, generator: np.random.Generator) -> Ordinals:
    """One row of each of ``count`` equally large strata of like length, ascending.

    Args:
        lengths: (rows,); equal lengths are ordered at random.
        count: At most the number of rows.
        generator: Source of the draws.
    """
    shuffled = generator.permutation(len(lengths))
    order = shuffled[np.argsort(np.asarray(lengths)[shuffled], kind="stable")]
    edges = np.linspace(0, len(order), count + 1).round().astype(np.int64)
    picked = generator.integers(edges[:-1], edges[1:])
    return np.sort(order[picked])


def uncertain_sample(
    disagreement: npt.NDArray[np.floating], count: int, taken: Ordinals, generator: np.random.Generator
) -> Ordinals:
    """``count`` further rows, drawn in proportion to how much a committee disagrees on them; ascending.

    Drawn rather than the very highest, which are often of one kind (weighted sampling without replacement by Gumbel
    keys: Kool et al., arXiv 1903.06059).

    Args:
        disagreement: (rows,) at least 0: the committee's standard deviation.
        count: Rows to draw, at most those not taken.
        taken: Ordinals that the teacher has already seen.
        generator: Source of the draws.
    """
    weights = np.asarray(disagreement, dtype=np.float64).clip(min=0)
    floor = max(float(weights.mean()) * 1e-6, np.finfo(np.float64).tiny)
    keys = np.log(weights + floor) + generator.gumbel(size=len(weights))
    keys[taken] = -np.inf
    return np.sort(np.argsort(-keys, kind="stable")[:count])


def round_sizes(count: int, rounds: int) -> list[int]:
    """``count`` rows in ``rounds`` nearly equal rounds, the first the largest."""
    each, rest = divmod(count, rounds)
    return [size for size in (each + (number < rest) for number in range(rounds)) if size]
