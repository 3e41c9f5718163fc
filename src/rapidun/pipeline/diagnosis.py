"""The failure signatures of a run directory, from the files that are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rapidun.evaluation import RunNumbers, Signature, diagnose
from rapidun.jsonl import read_log
from rapidun.reading import read_object
from rapidun.settings.run import RunConfig
from rapidun.weighting import get_scheme, read_weights
from rapidun.weighting.options import Robust


def signatures(directory: Path, config: RunConfig, metrics: Mapping[str, Any] | None = None) -> list[Signature]:
    """What went wrong, if anything.

    Args:
        directory: The run directory.
        config: The run's configuration.
        metrics: ``after``, ``perplexity_ratio`` and ``forget_ratio`` where the run was evaluated.
    """
    weights: dict[str, list[float]] = {}
    if (directory / "weights.jsonl").exists():
        for row in read_weights(directory / "weights.jsonl"):
            weights.setdefault(row.group, []).append(row.weight)
    found = metrics or {}
    numbers = RunNumbers(
        log=read_log(directory / "log.jsonl"),
        weights=weights,
        scheme=config.weights.scheme,
        robust=issubclass(get_scheme(config.weights.scheme).options, Robust),
        outcome=read_object(directory / "unlearning.json"),
        after=found.get("after"),
        perplexity_ratio=found.get("perplexity_ratio"),
        forget_ratio=found.get("forget_ratio"),
        thresholds=config.gate,
    )
    return diagnose(numbers)
