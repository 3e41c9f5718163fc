"""What weights are made of, computed on a model: influence blocks, hidden-state blocks, losses; only what is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import reduce
from pathlib import Path

import numpy as np

from rapidun.attribution import Blocks, influence_blocks
from rapidun.attribution.checkpoints import at_checkpoint
from rapidun.attribution.scorers.hidden import hidden_features
from rapidun.attribution.similarity import PoolStatistics, whiten
from rapidun.data import Example
from rapidun.gradients import GradientCollector, RapidGrad, collect_vectors
from rapidun.models.row_losses import row_losses
from rapidun.pipeline.inputs import RowGroups, RunModel, note_truncated
from rapidun.pipeline.reporter import Reporter, counting
from rapidun.settings.attribution import InfluenceSettings
from rapidun.weighting import Evidence, Needs

HIDDEN_RIDGE = 1.0


def make_collector(run_model: RunModel, settings: InfluenceSettings) -> GradientCollector:
    """The gradient collector of the configuration."""
    return GradientCollector(
        run_model.loaded.model,
        targets=settings.targets,
        normalize=settings.normalize,
        token_normalize=settings.token_normalize,
    )


def collect_evidence(
    run_model: RunModel,
    groups: RowGroups,
    needs: Needs,
    settings: InfluenceSettings,
    seed: int,
    reporter: Reporter,
) -> Evidence:
    """What ``needs`` names, of the forget and retain rows, on the run's model as it is."""
    examples = {}
    for name, rows in (("forget", groups.forget), ("retain", groups.retain)):
        examples[name] = run_model.tokenize(rows)
        note_truncated(examples[name], name, reporter)
    forget, retain = examples["forget"], examples["retain"]
    loaded = run_model.loaded
    gradients = hidden = losses = None
    if Needs.GRADIENTS in needs:
        gradients = gradient_blocks(run_model, forget, retain, settings, seed, reporter)
    if Needs.HIDDEN in needs:
        hidden = hidden_blocks(run_model, forget, retain, settings.max_tokens, reporter)
    if Needs.LOSSES in needs:
        losses = row_losses(loaded.model, forget, loaded.pad_token_id, loaded.device).means
    return Evidence(len(forget), len(retain), gradients, hidden, losses)


def gradient_blocks(
    run_model: RunModel,
    forget: list[Example],
    retain: list[Example],
    settings: InfluenceSettings,
    seed: int,
    reporter: Reporter,
) -> Blocks:
    """Influence in four directions, summed over the configured checkpoints and the model as it is (RapidIn, eq. 4).

    Every checkpoint has the same say under the cosine.
    """
    found = []
    for checkpoint in (None, *settings.checkpoints):
        with _at(run_model, checkpoint):
            sketches = [_sketch(run_model, group, settings, seed, reporter) for group in (forget, retain)]
        found.append(influence_blocks(sketches[0], sketches[1], similarity=settings.similarity))
    return reduce(_sum, found)


def check_checkpoints(run_model: RunModel, settings: InfluenceSettings) -> None:
    """Find out before long work whether every checkpoint fits the model.

    Raises:
        ModelError: If one cannot be read or does not fit.
    """
    for checkpoint in settings.checkpoints:
        with at_checkpoint(run_model.loaded.model, checkpoint):
            pass


def hidden_blocks(
    run_model: RunModel, forget: list[Example], retain: list[Example], max_tokens: int, reporter: Reporter
) -> Blocks:
    """Cosines of the answers' mean hidden states in four directions, centred and whitened on both groups together."""
    pad, model = run_model.loaded.pad_token_id, run_model.loaded.model
    rows = [*forget, *retain]
    told = counting(reporter, "rows")
    vectors = hidden_features(model, rows, pad, max_tokens=max_tokens, progress=told).answer_mean
    white = whiten(vectors, PoolStatistics.of([vectors]), HIDDEN_RIDGE)
    return influence_blocks(white[: len(forget)], white[len(forget) :])


def _sketch(
    run_model: RunModel, examples: list[Example], settings: InfluenceSettings, seed: int, reporter: Reporter
) -> np.ndarray:
    return collect_vectors(
        make_collector(run_model, settings),
        RapidGrad(k=settings.sketch_size, seed=seed),
        examples,
        run_model.loaded.pad_token_id,
        max_tokens=settings.max_tokens,
        progress=counting(reporter, "rows"),
    )


@contextmanager
def _at(run_model: RunModel, checkpoint: Path | None) -> Iterator[None]:
    if checkpoint is None:
        yield
        return
    with at_checkpoint(run_model.loaded.model, checkpoint):
        yield


def _sum(one: Blocks, other: Blocks) -> Blocks:
    return Blocks(**{field.name: getattr(one, field.name) + getattr(other, field.name) for field in fields(Blocks)})
