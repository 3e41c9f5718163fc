"""Gradients of the forget and retain rows, influence in four directions, weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapidun.gradients import GradientCollector, RapidGrad, collect_vectors
from rapidun.influence import Blocks, influence_blocks
from rapidun.pipeline.config import InfluenceSettings, WeightSettings
from rapidun.pipeline.directory import RunDirectory
from rapidun.pipeline.inputs import RowGroups, Subject, note_truncated
from rapidun.pipeline.reporter import Reporter
from rapidun.weighting import WeightOptions, Weights, scheme_weights, write_weights

WITHOUT_GRADIENTS = ("uniform", "random")


@dataclass(frozen=True)
class Weighed:
    """Blocks (None where the scheme does not need them), weights, and the names of the tracked tensors."""

    blocks: Blocks | None
    weights: Weights
    tracked: list[str]


def make_collector(subject: Subject, settings: InfluenceSettings) -> GradientCollector:
    """The gradient collector of the configuration."""
    return GradientCollector(
        subject.loaded.model,
        targets=settings.targets,
        normalize=settings.normalize,
        token_normalize=settings.token_normalize,
    )


def sketch_rows(
    subject: Subject, rows: Any, name: str, settings: InfluenceSettings, seed: int, reporter: Reporter
) -> np.ndarray:
    """(rows, k) float32 gradient sketches of ``rows``."""
    examples = subject.tokenize(rows)
    note_truncated(examples, name, reporter)
    return collect_vectors(
        make_collector(subject, settings),
        RapidGrad(k=settings.sketch_size, seed=seed),
        examples,
        subject.loaded.pad_token_id,
        max_tokens=settings.max_tokens,
        progress=reporter.progress,
    )


def weigh(
    subject: Subject,
    groups: RowGroups,
    influence: InfluenceSettings,
    weights: WeightSettings,
    seed: int,
    reporter: Reporter,
) -> Weighed:
    """Influence blocks and the weights of the chosen scheme; warnings become notes."""
    blocks = None
    if weights.scheme not in WITHOUT_GRADIENTS:
        forget = sketch_rows(subject, groups.forget, "forget", influence, seed, reporter)
        retain = sketch_rows(subject, groups.retain, "retain", influence, seed, reporter)
        blocks = influence_blocks(forget, retain, similarity=influence.similarity)
    options = WeightOptions(**weights.model_dump(exclude={"scheme"}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = scheme_weights(weights.scheme, blocks or _no_blocks(groups), seed=seed, options=options)
    for warning in caught:
        reporter.note(f"warning: {warning.message}")
    return Weighed(blocks, found, make_collector(subject, influence).tracked)


def _no_blocks(groups: RowGroups) -> Blocks:
    """Blocks of the right shapes for schemes that look only at the number of rows."""
    forget, retain = len(groups.forget), len(groups.retain)
    shapes = ((forget, forget), (forget, retain), (retain, forget), (retain, retain))
    return Blocks(*(np.zeros(shape, dtype=np.float32) for shape in shapes))


def write_weighed(weighed: Weighed, groups: RowGroups, directory: RunDirectory) -> None:
    """``weights.jsonl`` and ``blocks.safetensors``."""
    write_weights(
        directory / "weights.jsonl",
        weighed.weights,
        forget_rows=groups.forget,
        retain_rows=groups.retain,
    )
    if weighed.blocks is not None:
        weighed.blocks.save(directory / "blocks.safetensors")
