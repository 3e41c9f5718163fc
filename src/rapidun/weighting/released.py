"""RapidUn's released mapping from RapidIn files to weights, number for number (``--compat released``).

It differs from our defaults in four ways: each query keeps its 40 most helpful rows and sets all others to 0
(negative values stay when they are among the 40); a row's own query counts; the MAD has an absolute floor of
1e-3; and so most retain scores are exactly 0, of which `robust_weights` warns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rapidun.jsonl import write_jsonl
from rapidun.weighting.evidence import Evidence
from rapidun.weighting.options import Released
from rapidun.weighting.rapidin import RapidinResults
from rapidun.weighting.schemes import Weights, register_scheme, weights_of
from rapidun.weighting.scores import FloatArray, fuse

RELEASED_TOP_K = 40

RELEASED_FLOOR = 1e-3


def released_weights(results: RapidinResults) -> Weights:
    """The weights that RapidUn's released code computes from the same four files.

    Args:
        results: From `read_rapidin`.

    Returns:
        Weights (forget rows,) and (retain rows,), float64, mean 1 per group; row ``i`` is the training row with
        id ``i`` in the files.

    Warns:
        WeightWarning: See `robust_weights`.
    """
    # truncation happens on the lists: the files' own order decides among equal values
    scores = fuse(results.top_helpful(RELEASED_TOP_K), exclude_self=False)
    return weights_of(scores, Released(), RELEASED_FLOOR)


@register_scheme("released", signed=True, options=Released)
def released(evidence: Evidence, generator: np.random.Generator, options: Released) -> Weights:
    """The released code's choices on our own blocks: top 40 of each query, own query counted, floor 1e-3.

    Coefficients, temperatures and bounds are the run's; they are the paper's by default.
    """
    coefficients = options.model_dump(include={"alpha", "beta", "gamma", "delta"})
    scores = fuse(evidence.blocks(), **coefficients, top_k=RELEASED_TOP_K, exclude_self=False)
    return weights_of(scores, options, RELEASED_FLOOR)


def write_released(directory: str | Path, weights: Weights) -> tuple[Path, Path]:
    """Write ``forget_weights.jsonl`` and ``retain_weights.jsonl``: ``{"index", "weight"}`` a line, full precision."""
    forget, retain = Path(directory) / "forget_weights.jsonl", Path(directory) / "retain_weights.jsonl"
    _write(forget, weights.forget)
    _write(retain, weights.retain)
    return forget, retain


def _write(path: Path, weights: FloatArray) -> None:
    write_jsonl(path, ({"index": index, "weight": weight} for index, weight in enumerate(weights.tolist())))
